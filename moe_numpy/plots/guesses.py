"""Figures of speculation: what a call with guesses costs a sparse model, and what it gives."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from ..typing import Array, Float, Int
from .style import STYLES, grid, literal


def when_guesses_pay(
    guesses: Int[Array, " n"],
    met: Mapping[str, Float[Array, " n"]],
    cost: Mapping[str, Float[Array, " n"]],
    tokens: Mapping[str, Float[Array, " n"]],
) -> Figure:
    """Left: experts met in a layer. Right: a call's cost, and its tokens; guesses pay where tokens are above cost.

    Args:
        guesses: per call, ascending from 0.
        met: different experts per layer, by name of at most 4 lines.
        cost: of a call, relative to that of one token, by model.
        tokens: that a call gives, by text; with ``cost`` at most 4.
    """
    figure, (left, right) = grid(2, 2, height=4.4, title="Guesses in a Mixture of Experts")
    for axes, lines in ((left, met), (right, {f"cost, {name}": y for name, y in cost.items()})):
        for (name, y), style in zip(lines.items(), STYLES, strict=False):
            axes.plot(guesses, y, label=literal(name), linewidth=2, markersize=6, **style)
    for (name, y), style in zip(tokens.items(), STYLES[len(cost) :], strict=False):
        right.plot(guesses, y, label=literal(f"tokens, {name}"), linewidth=2, markersize=6, **style)
    left.set_ylabel("different experts per layer")
    right.set_ylabel("cost of a call, tokens per call")
    for axes in (left, right):
        axes.set_xticks(guesses)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("guesses per call")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    return figure
