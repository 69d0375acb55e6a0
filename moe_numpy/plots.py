"""The figures of the command line and the notebooks. Each function takes data and returns a Figure.

Figures are built without pyplot, so that nothing is global, and are 1200 pixels wide. Colour-blind readers
can tell the colours apart (Okabe, Ito 2008; cividis; purple, orange); no meaning rests on colour alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .routing_report import SentenceRouting, byte_name, separation
from .training.files import commit, temporary
from .typing import Array, Float, Int

_WIDTH = 10.0  # inches
_DPI = 120
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": _BLUE, "linestyle": "-", "marker": "o"},
    {"color": _ORANGE, "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
)
_MAX_NUMBERED = 16  # experts beside each other with a number in each cell


@dataclass(frozen=True, eq=False)
class Curve:
    """The losses of one run in nats per byte: of every training step, and validation at some steps."""

    label: str
    step: Int[Array, " N"]
    loss: Float[Array, " N"]
    validation: dict[int, float]


def learning_curves(curves: Sequence[Curve]) -> Figure:
    """Loss against steps, on the right the second half enlarged; points are validation."""
    figure, (whole, late) = _grid(2, 2, height=4.4, title="Loss while training")
    for curve, style in zip(curves, _STYLES, strict=False):
        smooth = _smoothed(curve.loss)
        line = {k: v for k, v in style.items() if k != "marker"}
        points = np.array(sorted(curve.validation.items())).reshape(-1, 2)
        for axes in (whole, late):
            axes.plot(curve.step, curve.loss, color=style["color"], alpha=0.15, linewidth=0.8)
            axes.plot(curve.step, smooth, **line, linewidth=1.8, label=f"{curve.label}, training")
            axes.plot(
                points[:, 0],
                points[:, 1],
                color=style["color"],
                marker=style["marker"],
                linestyle="none",
                markersize=8,
                markeredgecolor="white",
                label=f"{curve.label}, validation",
                zorder=5,
            )
            axes.set_xlabel("step")
            axes.grid(alpha=0.25)
    whole.set_ylabel("nats per byte")
    whole.set_ylim(bottom=0)
    half = max(int(curve.step[-1]) for curve in curves) / 2
    lows, highs = zip(*(_range_from(curve, half) for curve in curves), strict=True)
    margin = 0.08 * (max(highs) - min(lows)) + 0.01
    late.set_xlim(0.98 * half, 2.2 * half)
    _label_ends(late, curves)
    late.set_ylim(min(lows) - margin, max(highs) + margin)
    late.set_title("second half", fontsize=10)
    bits = late.secondary_yaxis("right", functions=(_nats_to_bits, _bits_to_nats))
    bits.set_ylabel("bits per byte")
    whole.legend(frameon=False, fontsize=9, loc="upper right")
    return figure


def expert_by_domain(
    shares: Float[Array, "L D E"], domains: Sequence[str], layers: Sequence[int] | None = None
) -> Figure:
    """Which expert takes which domain, one panel a layer; rows that differ show specialties."""
    names = [
        f"layer {layer}: closest domains {100 * s:.0f} % apart"
        for layer, s in zip(_numbers(layers, len(shares)), separation(shares), strict=True)
    ]
    return _share_maps(shares, domains, names, "Which experts take which domain (each row sums to 100 %)")


def expert_by_byte(
    shares: Float[Array, "L C E"], classes: Sequence[str], layers: Sequence[int] | None = None
) -> Figure:
    """Which expert takes which kind of byte, one panel a layer."""
    names = [f"layer {layer}" for layer in _numbers(layers, len(shares))]
    return _share_maps(shares, classes, names, "Which experts take which kind of byte (each row sums to 100 %)")


def expert_load(
    load: Float[Array, "L E"],
    dropped: Float[Array, " L"] | None = None,
    layers: Sequence[int] | None = None,
) -> Figure:
    """How much each expert is asked to take, against the fair share, one panel a layer."""
    num_layers, num_experts = load.shape
    columns = _columns(num_layers)
    height = 0.7 + 2.0 * math.ceil(num_layers / columns)
    fair = 100 / num_experts
    title = f"Load of the experts (dashed: the fair share, {fair:.1f} %)"
    figure, panels = _grid(num_layers, columns, height=height, title=title)
    for i, (layer, axes) in enumerate(zip(_numbers(layers, num_layers), panels, strict=True)):
        axes.bar(range(num_experts), 100 * load[i], color=_BLUE, width=0.75)
        axes.axhline(fair, color=_ORANGE, linestyle="--", linewidth=1.5)
        lost = "" if dropped is None else f", {100 * dropped[i]:.1f} % dropped"
        axes.set_title(f"layer {layer}{lost}", fontsize=10)
        axes.set_ylim(0, 100 * max(load.max(), 1.4 / num_experts) * 1.1)
        _ticks(axes, num_experts)
        if i % columns == 0:
            axes.set_ylabel("% of assignments")
        if i >= num_layers - columns:
            axes.set_xlabel("expert")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def load_over_training(
    step: Int[Array, " N"], load: Float[Array, "N L E"], layers: Sequence[int] | None = None
) -> Figure:
    """The load of every expert while training: a purple row starves, an orange one is overloaded."""
    _, num_layers, num_experts = load.shape
    columns = _columns(num_layers)
    height = 0.9 + 2.0 * math.ceil(num_layers / columns)
    figure, panels = _grid(num_layers, columns, height=height, title="Load of the experts while training")
    smooth = np.apply_along_axis(_smoothed, 0, load)
    fair = 1 / num_experts
    edges = (float(step[0]) - 0.5, float(step[-1]) + 0.5, num_experts - 0.5, -0.5)
    image = None
    for i, (layer, axes) in enumerate(zip(_numbers(layers, num_layers), panels, strict=True)):
        image = axes.imshow(
            smooth[:, i].T / fair,
            aspect="auto",
            cmap="PuOr_r",
            vmin=0,
            vmax=2,
            extent=edges,
            interpolation="none",
        )
        axes.set_title(f"layer {layer}", fontsize=10)
        axes.set_yticks(_some(num_experts, 16))
        if i % columns == 0:
            axes.set_ylabel("expert")
        if i >= num_layers - columns:
            axes.set_xlabel("step")
    assert image is not None
    bar = figure.colorbar(image, ax=panels, extend="max", ticks=[0, 0.5, 1, 1.5, 2], pad=0.015)
    bar.ax.set_yticklabels(["0", "½", "fair share", "1½ ×", "2 ×"])
    return figure


def sentence_routing(routing: SentenceRouting) -> Figure:
    """Where each byte of one text went: gate weights, one panel a layer, one column a byte."""
    num_layers, length, num_experts = routing.weight.shape
    height = 1.1 + num_layers * (0.45 + max(1.0, min(3.0, 0.14 * num_experts)))
    title = "Routing of one text: brighter is a larger gate weight"
    figure, panels = _grid(num_layers, 1, height=height, title=title)
    size = min(10.0, 700 / length)
    image = None
    for i, axes in enumerate(panels):
        image = axes.imshow(
            routing.weight[i].T, aspect="auto", cmap="cividis", vmin=0, vmax=max(routing.weight.max(), 1e-6)
        )
        lost = np.argwhere(routing.asked[i] & (routing.weight[i] == 0))
        axes.plot(lost[:, 0], lost[:, 1], "x", color="white", markersize=size / 2)
        axes.set_xticks(range(length), [_glyph(b) for b in routing.text], fontsize=size, family="monospace")
        axes.tick_params(axis="x", length=0)
        axes.set_yticks(_some(num_experts, 8))
        axes.set_ylabel("expert")
        axes.set_title(f"layer {routing.layers[i]}", fontsize=10, loc="left")
    assert image is not None
    figure.colorbar(image, ax=panels, label="gate weight", pad=0.01, fraction=0.03)
    if (routing.asked & (routing.weight == 0)).any():
        figure.supxlabel("× asked for, but the expert was full", fontsize=9)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG in place of whatever ``path`` holds: old or new after a crash, never half."""
    figure.savefig(temporary(path), format="png")
    commit([path])


def _share_maps(shares: Any, rows: Sequence[str], names: Sequence[str], title: str) -> Figure:
    """A heat map of percentages for each layer, all on one scale."""
    num_layers, num_rows, num_experts = shares.shape
    columns = _columns(num_layers) if num_experts <= _MAX_NUMBERED else 1
    height = 0.8 + math.ceil(num_layers / columns) * (0.75 + 0.33 * num_rows)
    figure, panels = _grid(num_layers, columns, height=height, title=title)
    top = max(shares.max(), 2 / num_experts)
    image = None
    for i, axes in enumerate(panels):
        image = axes.imshow(100 * shares[i], aspect="auto", cmap="cividis", vmin=0, vmax=100 * top)
        axes.set_title(names[i], fontsize=10)
        axes.set_yticks(range(num_rows), rows if i % columns == 0 else [""] * num_rows)
        axes.tick_params(length=0)
        _ticks(axes, num_experts)
        if i >= num_layers - columns:
            axes.set_xlabel("expert")
        if num_experts <= _MAX_NUMBERED:
            for r, e in np.ndindex(num_rows, num_experts):
                share = shares[i, r, e]
                colour = "black" if share > 0.55 * top else "white"
                axes.text(e, r, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=9)
    assert image is not None
    bar = figure.colorbar(image, ax=panels, label="% of the row; white line: fair share", pad=0.015)
    bar.ax.axhline(100 / num_experts, color="white", linewidth=2)
    return figure


def _grid(count: int, columns: int, *, height: float, title: str) -> tuple[Figure, list[Axes]]:
    """A figure and ``count`` panels in reading order."""
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    panels = figure.subplots(math.ceil(count / columns), columns, squeeze=False).reshape(-1)
    for unused in panels[count:]:
        unused.remove()
    return figure, list(panels[:count])


def _columns(panels: int) -> int:
    return 1 if panels == 1 else 2


def _numbers(layers: Sequence[int] | None, count: int) -> Sequence[int]:
    return range(count) if layers is None else layers


def _ticks(axes: Axes, num_experts: int) -> None:
    axes.set_xticks(_some(num_experts, _MAX_NUMBERED))


def _some(count: int, at_most: int) -> range:
    """Every n-th of ``count`` labels, so that they do not run into each other."""
    return range(0, count, math.ceil(count / at_most))


def _smoothed(values: Float[Array, " N"]) -> Float[Array, " N"]:
    """Centred mean over a twentieth of the run; narrower at both ends, so that nothing is made up."""
    reach = len(values) // 40
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    i = np.arange(len(values))
    low, high = np.maximum(i - reach, 0), np.minimum(i + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """The last validation loss beside its point; the lowest label hangs down, so that two close ones part."""
    ends = [
        (curve.validation[last], last, style["color"])
        for curve, style in zip(curves, _STYLES, strict=False)
        if (last := max(curve.validation, default=None)) is not None
    ]
    for loss, step, color in ends:
        axes.annotate(
            f"{loss:.3f}",
            (step, loss),
            xytext=(7, 0),
            textcoords="offset points",
            va="top" if (loss, step, color) == min(ends) else "bottom",
            color=color,
            fontweight="bold",
        )


def _range_from(curve: Curve, step: float) -> tuple[float, float]:
    late = [
        *_smoothed(curve.loss)[curve.step >= step],
        *(v for s, v in curve.validation.items() if s >= step),
    ]
    return min(late), max(late)


def _nats_to_bits(nats: Any) -> Any:
    return nats / math.log(2)


def _bits_to_nats(bits: Any) -> Any:
    return bits * math.log(2)


def _glyph(byte: int) -> str:
    """One character for a byte on an axis. matplotlib reads a lone $ as mathematics."""
    if byte == ord("$"):
        return r"\$"
    return {0x20: "␣", 0x0A: "↵", 0x09: "→"}.get(byte) or (byte_name(byte) if 0x20 < byte < 0x7F else "·")
