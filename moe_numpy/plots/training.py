"""The figures of a training run: losses, and the load of the experts over the steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..typing import Array, Float, Int
from .style import STYLES, columns_for, grid, layer_numbers, smoothed, some


@dataclass(frozen=True, eq=False)
class Curve:
    """The losses of one run in nats per byte: of every training step, and validation at some steps."""

    label: str
    step: Int[Array, " N"]
    loss: Float[Array, " N"]
    validation: dict[int, float]


def learning_curves(curves: Sequence[Curve]) -> Figure:
    """Loss against steps, on the right the second half enlarged; points are validation."""
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


def load_over_training(
    step: Int[Array, " N"], load: Float[Array, "N L E"], layers: Sequence[int] | None = None
) -> Figure:
    """The load of every expert while training: a purple row starves, an orange one is overloaded."""
    _, num_layers, num_experts = load.shape
    columns = columns_for(num_layers)
    height = 0.9 + 2.0 * math.ceil(num_layers / columns)
    figure, panels = grid(num_layers, columns, height=height, title="Load of the experts while training")
    smooth = np.apply_along_axis(smoothed, 0, load)
    fair = 1 / num_experts
    edges = (float(step[0]) - 0.5, float(step[-1]) + 0.5, num_experts - 0.5, -0.5)
    image = None
    for i, (layer, axes) in enumerate(zip(layer_numbers(layers, num_layers), panels, strict=True)):
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
        axes.set_yticks(some(num_experts, 16))
        if i % columns == 0:
            axes.set_ylabel("expert")
        if i >= num_layers - columns:
            axes.set_xlabel("step")
    assert image is not None
    bar = figure.colorbar(image, ax=panels, extend="max", ticks=[0, 0.5, 1, 1.5, 2], pad=0.015)
    bar.ax.set_yticklabels(["0", "½", "fair share", "1½ ×", "2 ×"])
    return figure


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """The last validation loss beside its point; the lowest label hangs down, so that two close ones part."""
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
