"""The figures of balancing: loads with and without collapse, and what balance costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..typing import Array, Float
from .load_scale import draw_load, load_bar
from .style import GREY, STYLES, grid, smoothed, some


@dataclass(frozen=True, eq=False)
class Runs:
    """Several runs of one setting that differ in their seed.

    Attributes:
        label: what they have in common.
        effective: the effective number of experts, [runs, steps].
        loss: the task loss, [runs, steps].
    """

    label: str
    effective: Float[Array, "runs N"]
    loss: Float[Array, "runs N"]


@dataclass(frozen=True, eq=False)
class Sweep:
    """One quantity against a coefficient: several seeds in one setting.

    Attributes:
        label: the setting.
        effective: the effective number of experts at the end, [seeds, coefficients].
        loss: the task loss at the end, [seeds, coefficients].
    """

    label: str
    effective: Float[Array, "runs coefficients"]
    loss: Float[Array, "runs coefficients"]


def load_maps(loads: Mapping[str, Float[Array, "N E"]], *, title: str, columns: int = 3) -> Figure:
    """The share of each expert at every step, one panel per run: white is fair, purple below, orange above.

    Args:
        loads: by panel name, shares of the assignments; each row sums to 1.
        title: of the figure.
        columns: panels per row.
    """
    rows = math.ceil(len(loads) / columns)
    figure, panels = grid(len(loads), columns, height=0.7 + 2.15 * rows, title=title)
    image = None
    for i, ((name, load), axes) in enumerate(zip(loads.items(), panels, strict=True)):
        image = draw_load(axes, load)
        axes.set_title(name, fontsize=10)
        axes.set_yticks(some(load.shape[1], 8))
        if i % columns == 0:
            axes.set_ylabel("expert")
        if i + columns >= len(loads):
            axes.set_xlabel("step")
    assert image is not None
    load_bar(figure, image, panels)
    return figure


def collapse_curves(groups: Sequence[Runs], *, num_experts: int) -> Figure:
    """Experts in use on the left, task loss (logarithmic) on the right: thin lines are runs, thick ones their means."""
    figure, (left, right) = grid(2, 2, height=3.9, title="Experts in use, and the task loss")
    for group, style in zip(groups, STYLES, strict=False):
        for axes, runs in ((left, group.effective), (right, group.loss)):
            smooth = np.apply_along_axis(smoothed, 1, runs)
            steps = np.arange(1, runs.shape[1] + 1)
            axes.plot(steps, smooth.T, color=style["color"], linestyle=style["linestyle"], linewidth=0.8, alpha=0.45)
            axes.plot(steps, smooth.mean(axis=0), **style, markevery=len(steps) // 8, linewidth=2, label=group.label)
    left.axhline(num_experts, color=GREY, linewidth=0.8)
    left.set_ylim(0, num_experts * 1.06)
    left.set_ylabel("effective number of experts")
    right.set_yscale("log")  # the ends differ by less than the first steps
    right.yaxis.set_major_formatter("{x:g}")
    right.set_ylabel("task loss")
    _finish(left, right, "step")
    return figure


def balance_loss_lines(
    probability: Float[Array, " N"], lines: Mapping[str, Float[Array, " N"]], point: tuple[float, float]
) -> Figure:
    """The balance loss of two experts against P₀, one line per f; ``point`` is marked with its value."""
    figure, (axes,) = grid(1, 1, height=3.9, title="The balance loss is linear in P, with a slope set by f")
    for (label, values), style in zip(lines.items(), STYLES, strict=False):
        axes.plot(probability, values, **style, markevery=max(len(values) // 6, 1), linewidth=1.8, label=label)
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.plot(*point, marker="*", color="black", markersize=15, linestyle="none")
    axes.annotate(f"{point[1]:.3f}, below 1", point, xytext=(12, -16), textcoords="offset points", fontweight="bold")
    axes.set_xlabel("P₀, mean probability of expert 0  (P₁ = 1 - P₀)")
    axes.set_ylabel("balance loss")
    axes.legend(frameon=False, fontsize=9, loc="upper center", title="fraction of tokens per expert", ncols=len(lines))
    axes.set_ylim(top=axes.get_ylim()[1] + 0.35)
    axes.grid(alpha=0.25)
    return figure


def cost_of_balance(coefficient: Sequence[float], sweeps: Sequence[Sweep], *, num_experts: int) -> Figure:
    """Task loss and experts in use against the coefficient of a balance loss; small dots are single seeds.

    Coefficients are evenly spaced, so that 0 can stand before the powers of ten.
    """
    figure, (left, right) = grid(2, 2, height=4.0, title="Experts in use and task loss against the balance coefficient")
    place = np.arange(len(coefficient))
    for sweep, style in zip(sweeps, STYLES, strict=False):
        for axes, values in ((left, sweep.effective), (right, sweep.loss)):
            axes.plot(place, values.T, linestyle="none", marker=".", color=style["color"], alpha=0.45)
            axes.plot(place, values.mean(axis=0), **style, linewidth=2, markersize=7, label=sweep.label)
    left.axhline(num_experts, color=GREY, linewidth=0.8)
    left.set_ylim(0, num_experts * 1.06)
    left.set_ylabel("effective number of experts")
    right.set_ylim(bottom=0)
    right.set_ylabel("task loss")
    for axes in (left, right):
        axes.set_xticks(place, [f"{c:g}" for c in coefficient])
    _finish(left, right, "coefficient of the balance loss")
    return figure


def _finish(left: Axes, right: Axes, xlabel: str) -> None:
    for axes in (left, right):
        axes.set_xlabel(xlabel)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=9)
