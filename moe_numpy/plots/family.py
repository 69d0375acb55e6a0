"""Figures of the router family: one token's gate weights, dependence between tokens, Soft MoE, a biased choice."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..typing import Array, Bool, Float, Int
from .style import BLUE, GREEN, GREY, ORANGE, expert_ticks, grid

_KINDS = (
    ("the token itself", GREY, "."),
    ("an earlier token", BLUE, "o"),
    ("a later token: the layer sees the future", ORANGE, "X"),
    ("a token of another sequence", GREEN, "^"),
)


def one_token(gates: Mapping[str, Float[Array, " E"]], probability: Float[Array, " E"]) -> Figure:
    """Gate weights of one token, one row per router; above them the softmax of their common logits."""
    names = list(gates)
    table = np.stack([gates[name] for name in names])
    height = 1.6 + 0.29 * (len(names) + 1)
    figure, (axes,) = grid(1, 1, height=height, title="The same logits through every router: one token's gate weights")
    rows = np.vstack([probability, table])
    _heat(axes, rows, top=1.0, digits=2, hide_zero=True)
    axes.axhline(0.5, color="white", linewidth=4)
    axes.set_yticks(range(len(rows)), ["softmax(h)", *names], fontsize=10)
    axes.tick_params(length=0)
    axes.set_xticks(range(len(probability)))
    axes.set_xlabel("expert (empty: not chosen; colours end at 1)")
    return figure


def dependence(moves: Mapping[str, Bool[Array, "T T"]], sequence_length: int) -> Figure:
    """Which outputs move when a token is exchanged; one panel per router.

    Args:
        moves: ``moves[name][s, t]`` says whether exchanging token s moved output t.
        sequence_length: tokens per sequence; tokens are numbered through the batch.
    """
    columns = min(3, len(moves))
    height = 1.9 + min(8.7 / columns, 4.5) * -(-len(moves) // columns)
    title = "Exchange one token: which outputs move?"
    figure, panels = grid(len(moves), columns, height=height, title=title)
    seen = set()
    for i, ((name, moved), axes) in enumerate(zip(moves.items(), panels, strict=True)):
        count = len(moved)
        s, t = np.nonzero(moved)
        for kind, (_, colour, marker) in enumerate(_KINDS):
            mine = _kind(s, t, sequence_length) == kind
            seen.update([kind] if mine.any() else [])
            axes.plot(s[mine], t[mine], marker, color=colour, markersize=6)
        for edge in range(sequence_length, count, sequence_length):
            axes.axhline(edge - 0.5, color=GREY, linewidth=1, linestyle=":")
            axes.axvline(edge - 0.5, color=GREY, linewidth=1, linestyle=":")
        axes.set_xlim(-0.7, count - 0.3)
        axes.set_ylim(count - 0.3, -0.7)
        axes.set_aspect("equal")
        axes.set_xticks(range(0, count, 4))
        axes.set_yticks(range(0, count, 4))
        axes.set_title(name, fontsize=11)
        if i % columns == 0:
            axes.set_ylabel("output that moves")
        if i >= len(moves) - columns:
            axes.set_xlabel("exchanged token")
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=7, label=label)
        for kind, (label, colour, marker) in enumerate(_KINDS)
        if kind in seen
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def soft_mixing(dispatch: Float[Array, "S n"], combine: Float[Array, "S n"]) -> Figure:
    """Soft MoE in one sequence: columns of dispatch and rows of combine sum to 1."""
    height = 1.6 + 0.36 * len(dispatch)
    figure, panels = grid(2, 2, height=height, title="Soft MoE: one matrix of logits, softmax over tokens or slots")
    titles = ("dispatch: what each slot takes (columns sum to 1)", "combine: what each token reads (rows sum to 1)")
    for matrix, title, axes in zip((dispatch, combine), titles, panels, strict=True):
        _heat(axes, matrix, top=float(max(dispatch.max(), combine.max())), digits=2)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("slot")
        axes.set_xticks(range(matrix.shape[1]))
        axes.set_yticks(range(len(matrix)))
        axes.tick_params(length=0)
    panels[0].set_ylabel("token")
    return figure


def biased_choice(
    score: Float[Array, " E"],
    biased: Float[Array, " E"],
    allowed: Bool[Array, " E"],
    gate: Float[Array, " E"],
    num_groups: int,
) -> Figure:
    """DeepSeek-V3's choice for one token: scores with and without bias, excluded groups, gate weights.

    Args:
        score: s, from which gate weights are computed.
        biased: s + b, by which experts are chosen.
        allowed: whether an expert is in a chosen group.
        gate: gate weights, 0 where not chosen.
        num_groups: number of groups of neighbouring experts.
    """
    title = "One token: chosen by s + b within groups, weighted by s"
    figure, (left, right) = grid(2, 2, height=3.9, title=title)
    e = np.arange(len(score))
    size = len(score) // num_groups
    for axes in (left, right):
        for g in range(num_groups):
            if not allowed[g * size]:
                axes.axvspan(g * size - 0.5, (g + 1) * size - 0.5, color=GREY, alpha=0.18, linewidth=0)
            if g:
                axes.axvline(g * size - 0.5, color=GREY, linewidth=1, linestyle=":")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xlim(-0.5, len(score) - 0.5)
        expert_ticks(axes, len(score))
        axes.set_xlabel("expert (grey: excluded groups)")
        axes.spines[["top", "right"]].set_visible(False)
    left.bar(e - 0.2, score, 0.38, color=BLUE, label="s")
    left.bar(e + 0.2, biased, 0.38, color=ORANGE, hatch="//", edgecolor="white", linewidth=0, label="s + b")
    chosen = gate > 0
    left.plot(e[chosen] + 0.2, biased[chosen] + 0.06, "v", color="black", markersize=9, label="chosen")
    left.set_ylim(top=1.2 * max(score.max(), biased.max()))
    left.set_title("scores", fontsize=11)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=10, ncols=3)
    right.bar(e, gate, 0.6, color=BLUE)
    for i in e[chosen]:
        right.text(i, gate[i], f"{gate[i]:.2f}", ha="center", va="bottom", fontsize=10)
    right.set_ylim(0, 1.15 * gate.max())
    right.set_title("gate weights", fontsize=11)
    return figure


def _kind(s: Int[Array, " N"], t: Int[Array, " N"], sequence_length: int) -> Int[Array, " N"]:
    """Index into _KINDS of the influence of token s on output t."""
    other = s // sequence_length != t // sequence_length
    return np.where(other, 3, np.where(s > t, 2, np.where(s < t, 1, 0)))


def _heat(axes: Axes, matrix: Any, *, top: float, digits: int, hide_zero: bool = False) -> None:
    """A heat map with the number in each cell."""
    shown = np.where(matrix == 0, np.nan, matrix) if hide_zero else matrix
    axes.set_facecolor("#EEEEEE")
    axes.imshow(shown, aspect="auto", cmap="cividis", vmin=0, vmax=top)
    for r, c in np.ndindex(matrix.shape):
        if not np.isnan(shown[r, c]):
            colour = "black" if matrix[r, c] > 0.55 * top else "white"
            axes.text(c, r, f"{matrix[r, c]:.{digits}f}", ha="center", va="center", color=colour, fontsize=9)
