"""Figures of hand-written gradients: the tape, finite differences, and what a wrong gradient looks like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from ..typing import Array, Float
from .style import BLUE, GREY, ORANGE, STYLES, grid

_TINIEST = 1e-17  # where an error of exactly 0 is drawn on a logarithmic axis


@dataclass(frozen=True)
class Node:
    """One box of the tape: a leaf or the result of an op.

    Attributes:
        label: what it is, ``"c = a b"``.
        value: what forward computed.
        gradient: dL/d(this), what backward computed.
        at: column and row, (0, 0) at the bottom left.
    """

    label: str
    value: float
    gradient: float
    at: tuple[float, float]


@dataclass(frozen=True)
class Link:
    """An input of an op: the index of its box, the index of the op's box, and the gradient sent back."""

    source: int
    target: int
    gradient: float


def tape(nodes: Sequence[Node], links: Sequence[Link]) -> Figure:
    """The graph of a computation: values go right along blue arrows, gradients come back along orange ones.

    Two links between the same boxes are drawn side by side.
    """
    columns, rows = (max(node.at[i] for node in nodes) + 1 for i in (0, 1))
    figure, (axes,) = grid(1, 1, height=1.3 + 1.25 * rows, title="Values forward, gradients back")
    boxes = []
    for node in nodes:
        x, y = node.at
        box = FancyBboxPatch((x - 0.25, y - 0.3), 0.5, 0.6, boxstyle="round,pad=0,rounding_size=0.05")
        box.set(facecolor="white", edgecolor=GREY, linewidth=1.3)
        axes.add_patch(box)
        boxes.append(box)
        axes.text(x, y + 0.17, node.label, ha="center", va="center", fontsize=12, fontweight="bold")
        axes.text(x, y, f"value {node.value:g}", ha="center", va="center", fontsize=12, color=BLUE)
        axes.text(x, y - 0.17, f"grad {node.gradient:g}", ha="center", va="center", fontsize=12, color=ORANGE)
    for i, link in enumerate(links):
        _draw_link(axes, nodes, boxes, link, _offset(links, i))
    axes.set_xlim(-0.45, columns - 0.55)
    axes.set_ylim(-0.5, rows - 0.5)
    axes.plot([], [], color=BLUE, linewidth=1.6, label="forward: values")
    axes.plot([], [], color=ORANGE, linewidth=1.6, linestyle="--", label="backward: gradients")
    axes.legend(frameon=False, fontsize=10, loc="upper right", ncols=1)
    axes.set_axis_off()
    return figure


def step_size_errors(
    step: Float[Array, " N"], errors: Mapping[str, Mapping[str, Float[Array, " N"]]], title: str
) -> Figure:
    """The error of finite differences against the step, one panel per number format, one line per rule."""
    figure, panels = grid(len(errors), len(errors), height=4.3, title=title)
    for axes, (name, lines) in zip(panels, errors.items(), strict=True):
        for (rule, error), style in zip(lines.items(), STYLES, strict=False):
            axes.loglog(step, np.maximum(error, _TINIEST), label=rule, markersize=4.5, **style)
        axes.set_title(name, fontsize=11)
        axes.set_xlabel("step h")
        axes.grid(alpha=0.25)
    panels[-1].legend(frameon=False, fontsize=10, loc="lower left")
    panels[0].set_ylabel("relative error of the slope")
    low, high = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(low), 100 * max(high))
        for text, x in (("← rounding", 0.02), ("curvature →", 0.98)):
            side = "left" if x < 0.5 else "right"
            axes.text(x, 0.93, text, transform=axes.transAxes, color=GREY, fontsize=10.5, ha=side)
    return figure


@dataclass(frozen=True, eq=False)
class Comparison:
    """An analytic gradient and a numeric one, entry by entry."""

    title: str
    numeric: Float[Array, "..."]
    analytic: Float[Array, "..."]


def entry_by_entry(comparisons: Sequence[Comparison], *, columns: int, title: str) -> Figure:
    """Per entry of the input, a circle for the numeric slope and a cross for the analytic one. They should coincide.

    All panels have one scale, of at least 1 if all there is is rounding.
    """
    rows = -(-len(comparisons) // columns)
    figure, panels = grid(len(comparisons), columns, height=0.9 + 2.2 * rows, title=title)
    for i, (axes, c) in enumerate(zip(panels, comparisons, strict=True)):
        numeric, analytic = np.ravel(c.numeric), np.ravel(c.analytic)
        entry = np.arange(len(numeric))
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.vlines(entry, numeric, analytic, color=GREY, linewidth=1, linestyle=":")
        axes.plot(entry, numeric, "o", color=BLUE, markersize=11, fillstyle="none", markeredgewidth=2, label="numeric")
        axes.plot(entry, analytic, "x", color=ORANGE, markersize=8, markeredgewidth=2.5, label="analytic")
        axes.set_title(c.title, fontsize=10.5)
        axes.set_xticks(entry)
        axes.margins(x=0.08)
        axes.set_ylim(*_common_range(comparisons))
        if i >= len(comparisons) - columns:
            axes.set_xlabel("entry of x")
        if i % columns == 0:
            axes.set_ylabel("dL/dx")
    panels[0].legend(frameon=False, fontsize=10, loc="best")
    return figure


def _common_range(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """For the slopes of all comparisons, with 0 and a margin."""
    values = np.concatenate([[0.0], *(np.ravel(v) for c in comparisons for v in (c.numeric, c.analytic))])
    low, high = float(values.min()), float(values.max())
    if max(-low, high) < 1e-6:  # rounding only: do not magnify it
        return -1.0, 1.0
    margin = 0.18 * (high - low)
    return low - margin, high + margin


def wrong_gradients(comparisons: Sequence[Comparison]) -> Figure:
    """Analytic against numeric, one point per entry, one panel per mistake. Right entries lie on the diagonal."""
    rows = -(-len(comparisons) // 3)
    figure, panels = grid(len(comparisons), 3, height=0.7 + 3.0 * rows, title="Each mistake has its own pattern")
    for i, (axes, c) in enumerate(zip(panels, comparisons, strict=True)):
        numeric, analytic = np.ravel(c.numeric), np.ravel(c.analytic)
        reach = 1.15 * max(np.abs(numeric).max(), np.abs(analytic).max())
        axes.plot([-reach, reach], [-reach, reach], color=GREY, linewidth=1, linestyle="--")
        right = np.isclose(analytic, numeric, rtol=1e-5, atol=1e-9 * reach)
        axes.plot(numeric[right], analytic[right], "o", color=BLUE, markersize=6, fillstyle="none", label="right")
        axes.plot(numeric[~right], analytic[~right], "X", color=ORANGE, markersize=7, label="wrong")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, symmetric=True))
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        axes.set_aspect("equal")
        axes.set_title(f"{c.title}: {np.count_nonzero(~right)} of {right.size} wrong", fontsize=10.5)
        if i >= len(comparisons) - 3:
            axes.set_xlabel("numeric")
        if i % 3 == 0:
            axes.set_ylabel("analytic")
    panels[-1].legend(frameon=False, fontsize=9, loc="upper left")
    return figure


@dataclass(frozen=True, eq=False)
class Crossing:
    """A function around a point where it has no derivative, and its slopes by finite differences."""

    title: str
    value: Float[Array, " N"]
    slopes: Mapping[str, Float[Array, " N"]]


def kinks(x: Float[Array, " N"], crossings: Sequence[Crossing]) -> Figure:
    """Functions above, their slopes by finite differences below, one column per function; no line crosses a jump."""
    count = len(crossings)
    figure, panels = grid(2 * count, count, height=5.4, title="Where finite differences cannot be trusted")
    for above, below, c in zip(panels[:count], panels[count:], crossings, strict=True):
        above.plot(*_broken(x, c.value), color="black", linewidth=1.8)
        above.set_title(c.title, fontsize=10.5)
        for (name, slope), style in zip(c.slopes.items(), STYLES, strict=False):
            line = {"color": style["color"], "linestyle": style["linestyle"]}
            below.plot(*_broken(x, slope), label=name, **line, linewidth=1.8)
        below.set_xlabel("x")
        below.margins(y=0.12)
        below.legend(frameon=False, fontsize=9, loc="upper left")
        for axes in (above, below):
            axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
            axes.grid(alpha=0.25)
    panels[0].set_ylabel("f(x)")
    panels[count].set_ylabel("slope")
    return figure


def _broken(x: Float[Array, " N"], y: Float[Array, " N"]) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
    """The same line with a gap where one step is a tenth of its range, and three times as high as the next ones."""
    step = np.abs(np.diff(y))
    beside = np.pad(step, 1)
    high = step > np.maximum(0.1 * np.ptp(y), 3 * np.maximum(beside[:-2], beside[2:]))
    at = np.flatnonzero(high) + 1
    return np.insert(x, at, np.nan), np.insert(np.asarray(y, float), at, np.nan)


def _offset(links: Sequence[Link], i: int) -> float:
    """How far to the side link i is drawn: 0 unless there are several between the same boxes."""
    same = [n for n, link in enumerate(links) if (link.source, link.target) == (links[i].source, links[i].target)]
    return 0.4 * (same.index(i) - (len(same) - 1) / 2)


def _draw_link(axes: Axes, nodes: Sequence[Node], boxes: Sequence[FancyBboxPatch], link: Link, offset: float) -> None:
    """A solid arrow forward, a dashed one back below it, and the gradient sent back."""
    (x0, y0), (x1, y1) = nodes[link.source].at, nodes[link.target].at
    source, target = boxes[link.source], boxes[link.target]
    for shift, tail, head, colour, line in ((0.07, source, target, BLUE, "-"), (-0.07, target, source, ORANGE, "--")):
        places = {source: (x0, y0 + offset + shift), target: (x1, y1 + offset + shift)}
        arrow = FancyArrowPatch(places[tail], places[head], patchA=tail, patchB=head, arrowstyle="-|>", shrinkA=0)
        arrow.set(mutation_scale=13, color=colour, linestyle=line, linewidth=1.6)
        axes.add_patch(arrow)
    middle = ((x0 + x1) / 2, (y0 + y1) / 2 + offset - 0.1)
    axes.annotate(
        f"{link.gradient:g}",
        middle,
        xytext=(0, -3),
        textcoords="offset points",
        ha="center",
        va="top",
        color=ORANGE,
        fontsize=11,
        fontweight="bold",
    )
