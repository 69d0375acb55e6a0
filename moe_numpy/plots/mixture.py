"""Figures of the mixture of 1991: which expert is responsible for a target, and how experts divide a function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..typing import Array, Float
from .style import GREY, STYLES, grid

_BAND = 0.22  # the fraction of a panel's height for the gate weights
_MARKED = 9  # markers along an expert's line
_NUMBERED = 0.05  # the smallest mean gate weight at which an expert's number fits into the band


def posterior_over_targets(
    y: Float[Array, " N"], joint: Float[Array, "N E"], posterior: Float[Array, "N E"], prior: Float[Array, " E"]
) -> Figure:
    """Left, the joint probability g_i ℓ_i(y) per expert; right, its posterior r_i(y), with the gate weight dotted.

    Raises:
        ValueError: more than 4 experts.
    """
    figure, (left, right) = grid(2, 2, height=4.2, title="Which expert is responsible for the target y?")
    every = max(len(y) // _MARKED, 1)
    for i, style in enumerate(_styles(len(prior))):
        left.plot(y, joint[:, i], label=f"expert {i}", markevery=every, **style)
        right.plot(y, posterior[:, i], label=f"posterior $r_{i}$", markevery=every, **style)
        right.axhline(prior[i], color=style["color"], linewidth=1, linestyle=":")
        right.annotate(
            f"prior $g_{i}$",
            (y[-1] if i else y[0], prior[i]),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right" if i else "left",
            color=style["color"],
            fontsize=10,
        )
    left.plot(y, joint.sum(axis=1), color="black", linewidth=1.2, label="sum: the likelihood")
    left.set_ylabel(r"$g_i\,\ell_i(y)$")
    right.set_ylabel("probability")
    for axes in (left, right):
        axes.set_xlabel("target y")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=10, loc="best")
    return figure


def pulls(distance: Float[Array, " E"], by_loss: Mapping[str, Float[Array, " E"]]) -> Figure:
    """How strongly each expert is pulled towards the target, one panel per loss, one scale; below 0 it is pushed away.

    Raises:
        ValueError: more than 4 experts.
    """
    figure, panels = grid(len(by_loss), len(by_loss), height=3.6, title="How strongly the target pulls each expert")
    ticks = np.arange(len(distance))
    values = np.concatenate([[0.0], *by_loss.values()])
    margin = 0.1 * float(np.ptp(values)) + 1e-6
    for axes, (name, pull) in zip(panels, by_loss.items(), strict=True):
        axes.bar(ticks, pull, color=[style["color"] for style in _styles(len(pull))], width=0.7)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.bar_label(axes.containers[0], fmt="%.2f", fontsize=9, padding=2)  # type: ignore[arg-type]
        axes.set_title(name, fontsize=10.5)
        axes.set_xticks(ticks, [f"{d:g}" for d in distance])
        axes.set_xlabel("distance from expert to target")
        axes.set_ylim(values.min() - margin, values.max() + margin)
        axes.spines[["top", "right"]].set_visible(False)
        if axes is not panels[0]:
            axes.tick_params(labelleft=False)
    panels[0].set_ylabel("pull towards the target")
    return figure


@dataclass(frozen=True, eq=False)
class Division:
    """How experts divide a function at one moment.

    Attributes:
        title: the panel's title.
        outputs: of each expert along x.
        gates: the gate weights; every row sums to 1.
        blend: the weighted sum of the outputs, drawn in black if given.
    """

    title: str
    outputs: Float[Array, "N E"]
    gates: Float[Array, "N E"]
    blend: Float[Array, " N"] | None = None


def divisions(
    x: Float[Array, " N"],
    y: Float[Array, " N"],
    moments: Sequence[Division],
    *,
    title: str,
    columns: int = 3,
) -> Figure:
    """Small multiples: data as dots, each expert's line, thick where its gate weight is at least ½; gate weights below.

    Raises:
        ValueError: more than 4 experts.
    """
    rows = -(-len(moments) // columns)
    figure, panels = grid(len(moments), columns, height=0.8 + 3.0 * rows, title=title)
    span = y.max() - y.min()
    top, bottom = y.max() + 0.15 * span, y.min() - 0.15 * span
    floor = bottom - (top - bottom) * _BAND / (1 - _BAND)
    order = np.argsort(x)
    for i, (axes, moment) in enumerate(zip(panels, moments, strict=True)):
        axes.plot(x, y, ".", color="#bbbbbb", markersize=4, zorder=1)
        _draw_experts(axes, x[order], moment.outputs[order], moment.gates[order], bottom, top)
        if moment.blend is not None:
            axes.plot(x[order], moment.blend[order], color="black", linewidth=1.5, zorder=4)
        _draw_band(axes, x[order], moment.gates[order], floor, bottom)
        axes.set_xlim(x.min(), x.max())
        axes.set_ylim(floor, top)
        axes.set_yticks([tick for tick in axes.get_yticks() if bottom < tick <= top])
        axes.set_title(moment.title, fontsize=10.5)
        if i >= len(moments) - columns:
            axes.set_xlabel("x")
        if i % columns == 0:
            axes.set_ylabel("y")
            axes.text(-0.03, _BAND / 2, "gate", transform=axes.transAxes, ha="right", va="center", fontsize=10)
    return figure


def _styles(num_experts: int) -> Sequence[dict[str, Any]]:
    """A colour, a line style and a marker per expert."""
    if num_experts > len(STYLES):
        raise ValueError(f"these figures distinguish at most {len(STYLES)} experts, got {num_experts}")
    return STYLES[:num_experts]


def _draw_experts(
    axes: Axes, x: Float[Array, " N"], outputs: Float[Array, "N E"], gates: Float[Array, "N E"], low: float, high: float
) -> None:
    """Each expert thin everywhere, thick where its gate weight is at least one half."""
    for i, style in enumerate(_styles(outputs.shape[1])):
        inside = (outputs[:, i] > low) & (outputs[:, i] < high)
        line = np.where(inside, outputs[:, i], np.nan)
        axes.plot(x, line, color=style["color"], linewidth=0.9, linestyle=style["linestyle"], alpha=0.8, zorder=2)
        trusted = np.where(gates[:, i] >= 0.5, line, np.nan)
        axes.plot(
            x,
            trusted,
            color=style["color"],
            linewidth=3.2,
            marker=style["marker"],
            markersize=6,
            markevery=max(len(x) // _MARKED, 1),
            zorder=3,
        )


def _draw_band(axes: Axes, x: Float[Array, " N"], gates: Float[Array, "N E"], floor: float, ceiling: float) -> None:
    """The gate weights, stacked between ``floor`` and ``ceiling``, each with its expert's number."""
    edges = np.concatenate([np.zeros((len(x), 1)), np.cumsum(gates, axis=1)], axis=1)
    edges = floor + (ceiling - floor) * 0.94 * edges / edges[:, -1:]
    for i, style in enumerate(_styles(gates.shape[1])):
        axes.fill_between(x, edges[:, i], edges[:, i + 1], color=style["color"], alpha=0.55, linewidth=0, zorder=1)
        if gates[:, i].mean() >= _NUMBERED:
            at = int(np.argmin(np.abs(x - np.average(x, weights=gates[:, i] ** 4))))
            middle = (edges[at, i] + edges[at, i + 1]) / 2
            axes.text(x[at], middle, str(i), ha="center", va="center", fontsize=10, fontweight="bold", zorder=4)
    axes.axhline(ceiling, color=GREY, linewidth=0.8)
