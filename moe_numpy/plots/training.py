"""Figures of training: losses, costs, and the load of the experts over the steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..typing import Array, Float, Int
from .load_scale import draw_load, load_bar
from .style import BLUE, GREY, ORANGE, STYLES, columns_for, grid, layer_numbers, literal, smoothed, some


@dataclass(frozen=True, eq=False)
class Curve:
    """The losses of one run in nats per byte or token: training at every step, validation at some."""

    label: str
    step: Int[Array, " N"]
    loss: Float[Array, " N"]
    validation: dict[int, float]


def learning_curves(curves: Sequence[Curve], unit: str = "byte") -> Figure:
    """Loss per ``unit`` against steps, the second half enlarged on the right; points are validation."""
    figure, (whole, late) = grid(2, 2, height=4.4, title="Loss while training")
    for curve, style in zip(curves, STYLES, strict=False):
        smooth = smoothed(curve.loss)
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
    whole.set_ylabel(f"nats per {unit}")
    whole.set_ylim(bottom=0)
    half = max(int(curve.step[-1]) for curve in curves) / 2
    lows, highs = zip(*(_range_from(curve, half) for curve in curves), strict=True)
    margin = 0.08 * (max(highs) - min(lows)) + 0.01
    late.set_xlim(0.98 * half, 2.2 * half)
    _label_ends(late, curves)
    late.set_ylim(min(lows) - margin, max(highs) + margin)
    late.set_title("second half", fontsize=10)
    bits = late.secondary_yaxis("right", functions=(_nats_to_bits, _bits_to_nats))
    bits.set_ylabel(f"bits per {unit}")
    whole.legend(frameon=False, fontsize=9, loc="upper right")
    return figure


def learning_curves_of_seeds(groups: Mapping[str, Sequence[Curve]]) -> Figure:
    """Several seeds per model: on the left every run and the mean, on the right the last validation of each seed.

    Args:
        groups: the runs of each model. Run i of every model has the same seed and text; all runs have the same
            steps.

    Raises:
        ValueError: the models have different numbers of runs, or none.
    """
    counts = {len(curves) for curves in groups.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"every model needs as many runs as the others, got {[len(c) for c in groups.values()]}")
    (count,) = counts
    figure, (left, right) = grid(2, 2, height=4.6, title=f"{count} seeds of each model, in bits per byte")
    ends = {name: np.array([c.validation[max(c.validation)] for c in curves]) for name, curves in groups.items()}
    for place, ((name, curves), style) in enumerate(zip(groups.items(), STYLES, strict=False)):
        smooth = np.stack([smoothed(curve.loss) for curve in curves])
        for run in smooth:
            left.plot(curves[0].step, _nats_to_bits(run), color=style["color"], alpha=0.35, linewidth=0.9)
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        left.plot(curves[0].step, _nats_to_bits(smooth.mean(axis=0)), **line, linewidth=2.2, label=name)
        _draw_ends(right, _nats_to_bits(ends[name]), style, name, last=place == len(groups) - 1)
    left.set_xlabel("step")
    left.set_ylabel("bits per byte")
    left.set_ylim(*_range_of_lines(left))
    left.set_title("training loss (thin: seeds; thick: mean)", fontsize=10)
    left.legend(frameon=False, fontsize=10)
    left.grid(alpha=0.25)
    right.set_xticks(range(count + 1), [*(f"seed {i}" for i in range(count)), "mean"])
    right.set_xlim(-0.5, count + 0.6)
    right.axvline(count - 0.5, color=GREY, linewidth=0.8)
    right.set_title("validation at the end", fontsize=10)
    right.grid(alpha=0.25, axis="y")
    right.margins(y=0.12)
    return figure


def losses_by_domain(losses: Mapping[str, Float[Array, "runs domains"]], domains: Sequence[str]) -> Figure:
    """Validation loss of each model and run, one panel per domain; a bar is the mean, a thin line joins equal seeds.

    The panels start at different losses but span equally many bits, so that equal differences look equal.

    Args:
        losses: per model, in nats per byte; [runs, domains]. Run i of every model has the same seed.
        domains: the names of the domains.
    """
    figure, panels = grid(len(domains), len(domains), height=3.6, title="Validation by domain, in bits per byte")
    bits = _nats_to_bits(np.stack([np.asarray(values) for values in losses.values()]))  # [models, runs, domains]
    middle = (bits.max(axis=(0, 1)) + bits.min(axis=(0, 1))) / 2
    reach = 0.6 * float(np.ptp(bits, axis=(0, 1)).max()) + 0.01
    for i, (domain, axes) in enumerate(zip(domains, panels, strict=True)):
        axes.plot(bits[:, :, i], color=GREY, linewidth=0.8, alpha=0.6)
        for place, (model, style) in enumerate(zip(bits[:, :, i], STYLES, strict=False)):
            axes.plot(
                np.full(len(model), place), model, linestyle="none", marker=style["marker"], color=style["color"],
                markersize=8, alpha=0.75, markeredgecolor="white",
            )  # fmt: skip
            axes.plot([place - 0.28, place + 0.28], [model.mean()] * 2, color=style["color"], linewidth=2.5)
            side = -1 if place == 0 else 1  # outside, where no line joins seeds
            axes.annotate(
                f"{model.mean():.2f}", (place + 0.31 * side, model.mean()), va="center", fontsize=10,
                ha="right" if side < 0 else "left", color=style["color"], fontweight="bold",
            )  # fmt: skip
        axes.set_xticks(range(len(losses)), list(losses))
        axes.set_xlim(-0.8, len(losses) - 0.2)
        axes.set_ylim(middle[i] - reach, middle[i] + reach)
        axes.set_title(literal(domain), fontsize=11)
        axes.grid(alpha=0.25, axis="y")
    panels[0].set_ylabel("bits per byte")
    return figure


def cost_ratios(ratios: Mapping[str, float], *, title: str) -> Figure:
    """What one model costs relative to another: one bar per cost, and a line at 1."""
    figure, (axes,) = grid(1, 1, height=1.1 + 0.5 * len(ratios), title=title)
    names, values = list(ratios), list(ratios.values())
    bars = axes.barh(range(len(names)), values, height=0.6, color=[ORANGE if v > 1.1 else BLUE for v in values])
    axes.bar_label(bars, [f"{v:.2f} ×" for v in values], padding=5, fontsize=11)
    axes.axvline(1, color=GREY, linestyle="--", linewidth=1.5)
    axes.set_yticks(range(len(names)), names, fontsize=11)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(*values, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("relative to the dense model")
    return figure


def load_over_training(
    step: Int[Array, " N"],
    load: Float[Array, "N layers E"],
    splits: Sequence[tuple[int, int, int]] = (),
    layers: Sequence[int] | None = None,
) -> Figure:
    """The load of every expert while training: a purple row starves, an orange one is overloaded.

    ``splits`` are marked: the step, the layer, and the expert that then became a copy of a loaded one.
    """
    _, num_layers, num_experts = load.shape
    columns = columns_for(num_layers)
    height = 0.9 + 2.0 * math.ceil(num_layers / columns)
    figure, panels = grid(num_layers, columns, height=height, title="Load of the experts while training")
    image = None
    for i, (layer, axes) in enumerate(zip(layer_numbers(layers, num_layers), panels, strict=True)):
        image = draw_load(axes, load[:, i], first=float(step[0]), last=float(step[-1]))
        axes.set_title(f"layer {layer}", fontsize=10)
        marks = [(at, expert) for at, of_layer, expert in splits if of_layer == layer]
        if marks:
            axes.plot(*zip(*marks, strict=True), "k>", markersize=5, markerfacecolor="white")
        axes.set_yticks(some(num_experts, 16))
        if i % columns == 0:
            axes.set_ylabel("expert")
        if i >= num_layers - columns:
            axes.set_xlabel("step")
    assert image is not None
    load_bar(figure, image, panels)
    return figure


def _draw_ends(axes: Axes, bits: Float[Array, " runs"], style: dict[str, Any], name: str, *, last: bool) -> None:
    """Points for the last validation of each run and for the mean, with numbers; those of the last model below."""
    values = [*bits, bits.mean()]
    axes.plot(
        range(len(values)), values, linestyle="none", marker=style["marker"], color=style["color"], markersize=9,
        label=name,
    )  # fmt: skip
    for i, value in enumerate(values):
        axes.annotate(
            f"{value:.2f}", (i, value), xytext=(0, -9 if last else 9), textcoords="offset points", ha="center",
            va="top" if last else "bottom", fontsize=10, color=style["color"], fontweight="bold",
        )  # fmt: skip


def _range_of_lines(axes: Axes) -> tuple[float, float]:
    """The range of the lines without their first quarter, whose steep fall would flatten the rest."""
    lines = [np.asarray(line.get_ydata()) for line in axes.get_lines()]
    values = np.concatenate([y[len(y) // 4 :] for y in lines])
    low, high = values.min(), values.max()
    margin = 0.05 * (high - low) + 0.01
    return low - margin, high + margin


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """The last validation loss beside its point; the lowest label is below it, so that two labels do not overlap."""
    ends = [
        (curve.validation[last], last, style["color"])
        for curve, style in zip(curves, STYLES, strict=False)
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
        *smoothed(curve.loss)[curve.step >= step],
        *(v for s, v in curve.validation.items() if s >= step),
    ]
    return min(late), max(late)


def _nats_to_bits(nats: Any) -> Any:
    return nats / math.log(2)


def _bits_to_nats(bits: Any) -> Any:
    return bits * math.log(2)
