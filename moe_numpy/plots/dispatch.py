"""The figures of dispatch: the permutation into expert order and back, buffers, and what the strategies cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator

from ..typing import Array, Float, Int
from .style import BLUE, GREEN, GREY, ORANGE, PINK, STYLES, grid

_EXPERT_COLOURS = (BLUE, ORANGE, GREEN, PINK)  # boxes also say e0, e1, ...


@dataclass(frozen=True, eq=False)
class Growth:
    """A cost of each strategy against a size: one panel of :func:`growth`."""

    title: str
    size: str
    cost: str
    x: Int[Array, " n"]
    lines: Mapping[str, Sequence[float] | Float[Array, " n"]]


def permutation(token: Int[Array, " N"], expert: Int[Array, " N"], num_tokens: int) -> Figure:
    """Tokens, their copies in expert order, and the way back.

    Args:
        token: of each assignment, in expert order.
        expert: of each assignment, ascending.
        num_tokens: T.
    """
    figure, (axes,) = grid(1, 1, height=4.6, title="To the experts and back")
    rows = len(token)
    width = max(rows, num_tokens)
    at_token = (np.arange(num_tokens) + 0.5) * width / num_tokens
    at_row = (np.arange(rows) + 0.5) * width / rows
    for n, (t, e) in enumerate(zip(token.tolist(), expert.tolist(), strict=True)):
        colour = _colour(e)
        for y_token, y_row in ((2, 1), (0, 1)):
            side = 0.17 if y_token > y_row else -0.17
            axes.plot([at_token[t], at_row[n]], [y_token - side, y_row + side], color=colour, linewidth=1.8)
        _box(axes, float(at_row[n]), 1, f"token {t}\n→ e{e}" if rows <= 8 else f"{t}\n→ e{e}", colour, width)
    for t in range(num_tokens):
        _box(axes, float(at_token[t]), 2, f"token {t}", "white", width)
        _box(axes, float(at_token[t]), 0, f"y of {t}", "white", width)
    for e in np.unique(expert).tolist():
        mine = np.flatnonzero(expert == e)
        edges = (at_row[mine[0]] - 0.46, at_row[mine[-1]] + 0.46)
        axes.plot(edges, [0.78, 0.78], color=_colour(e), linewidth=3)
    axes.set_yticks([2, 1, 0], ["tokens", "rows,\nby expert", "outputs"], fontsize=11)
    offsets = [0, *np.flatnonzero(np.diff(expert)) + 1, rows]
    axes.set_xticks([n * width / rows for n in offsets], offsets)
    axes.set_xlabel("offsets: where the rows of each expert begin and end")
    axes.set_xlim(-0.1, width + 0.1)
    axes.set_ylim(-0.3, 2.3)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def buffers(token: Int[Array, " N"], expert: Int[Array, " N"], num_tokens: int, num_experts: int) -> Figure:
    """The same assignments in three forms: mask [T, E·C], padded places [E, C], sorted rows [N]. Grey is unused.

    Args:
        token: of each assignment, in expert order.
        expert: of each assignment, ascending.
        num_tokens: T.
        num_experts: E.
    """
    figure, (axes,) = grid(1, 1, height=5.2, title="The same assignments in three forms")
    load = np.bincount(expert, minlength=num_experts)
    capacity, used = int(load.max()), len(token)
    place = (np.arange(used) - np.concatenate([[0], np.cumsum(load)])[expert]).tolist()
    num_places = num_experts * capacity
    below = num_tokens + 2.5  # the row in which the padded buffer and the sorted rows begin
    right = capacity + 3  # the column in which the sorted rows begin
    _cells(axes, 0, 0, num_tokens, num_places)
    _cells(axes, 0, below, num_experts, capacity)
    for n, (t, e) in enumerate(zip(token.tolist(), expert.tolist(), strict=True)):
        _cell(axes, e * capacity + place[n], t, "1", e)
        _cell(axes, place[n], below + e, str(t), e)
        _cell(axes, right + n, below, str(t), e)
    for t in range(num_tokens):
        axes.text(-0.2, t + 0.5, f"token {t}", ha="right", va="center")
    for e in range(num_experts):
        axes.text((e + 0.5) * capacity, num_tokens + 0.5, f"e{e}", ha="center", va="center")
        axes.text(-0.2, below + e + 0.5, f"e{e}", ha="right", va="center")
        axes.plot([(e + 1) * capacity] * 2, [0, num_tokens], color="black", linewidth=1.5)
    for e in np.unique(expert):
        axes.text(right + np.flatnonzero(expert == e).mean() + 0.5, below + 1.5, f"e{e}", ha="center", va="center")
    for x, y, text in (
        (0, 0, f"onehot: {used} of {num_tokens * num_places} entries of the mask used"),
        (0, below, f"padded: {used} of {num_places} places"),
        (right, below, f"sorted: {used} of {used} rows"),
    ):
        axes.text(x, y - 0.3, text, fontsize=11, fontweight="bold")
    axes.set_xlim(-2, max(num_places, right + used))
    axes.set_ylim(below + max(num_experts, 2), -1)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure


def costs(by_measure: Mapping[str, Mapping[str, float]]) -> Figure:
    """What each strategy costs: a panel per measure, named with its unit, and in it a bar per strategy."""
    title = "The same numbers, different cost"
    figure, panels = grid(len(by_measure), len(by_measure), height=2.9, title=title)
    for axes, (measure, cost) in zip(panels, by_measure.items(), strict=True):
        colours = [style["color"] for style in STYLES[: len(cost)]]
        bars = axes.barh(list(cost), list(cost.values()), color=colours, height=0.65)
        axes.bar_label(bars, labels=[_short(c) for c in cost.values()], padding=4)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.18 * max(cost.values()))
        axes.set_xlabel(measure)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def growth(panels: Sequence[Growth]) -> Figure:
    """Costs against sizes, on logarithmic scales: a line twice as steep grows with the square.

    Later lines are thinner, so that lines that coincide all stay visible.
    """
    figure, all_axes = grid(len(panels), len(panels), height=4.2, title="How cost grows")
    for i, (axes, panel) in enumerate(zip(all_axes, panels, strict=True)):
        for j, ((name, cost), style) in enumerate(zip(panel.lines.items(), STYLES, strict=False)):
            axes.plot(panel.x, cost, label=name, linewidth=3.2 - 0.5 * j, markersize=11 - 2 * j, **style)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xticks(panel.x, [f"{x:,}" for x in panel.x])
        axes.set_xlabel(panel.size)
        axes.set_ylabel(panel.cost)
        axes.set_title(panel.title, fontsize=11)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axes.legend(frameon=False, fontsize=10)
    return figure


def _colour(expert: int) -> str:
    return _EXPERT_COLOURS[expert % len(_EXPERT_COLOURS)]


def _box(axes: Axes, x: float, y: float, text: str, colour: str, width: float) -> None:
    """A labelled box centred at (x, y)."""
    axes.add_patch(Rectangle((x - 0.42, y - 0.17), 0.84, 0.34, facecolor=colour, edgecolor=GREY, zorder=3))
    light = colour == "white"
    size = min(11.0, 110 / width)
    axes.text(x, y, text, ha="center", va="center", fontsize=size, color="black" if light else "white", zorder=4)


def _cells(axes: Axes, x: float, y: float, rows: int, columns: int) -> None:
    """An empty table."""
    for r, c in np.ndindex(rows, columns):
        axes.add_patch(Rectangle((x + c, y + r), 1, 1, facecolor="#dddddd", edgecolor="white"))


def _cell(axes: Axes, column: float, row: float, text: str, expert: int) -> None:
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=_colour(expert), edgecolor="white"))
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color="white", fontsize=10)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
