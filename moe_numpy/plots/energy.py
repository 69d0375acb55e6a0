"""Energy of a decoded token, dense against sparse."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from .style import GREY, STYLES, grid, literal


def joules_over_batch(pairs: Sequence[Mapping[str, Any]]) -> Figure:
    """Joules per token of both models of each pair, and their ratio, against the batch; both axes logarithmic.

    Args:
        pairs: at most 4, each with the names ``dense`` and ``sparse`` and ``rows``, which have ``batch``, ``advantage``
            and ``joules`` of both kinds.
    """
    figure, (energy, ratio) = grid(2, 2, height=4.8, title="Energy of a decoded token, modelled")
    for pair, style in zip(pairs, STYLES, strict=False):
        batch = [row["batch"] for row in pair["rows"]]
        look = {"color": style["color"], "marker": style["marker"], "markersize": 5}
        for kind, line in (("dense", "--"), ("sparse", "-")):
            joules = [row[kind]["joules"] for row in pair["rows"]]
            energy.plot(batch, joules, linestyle=line, label=literal(pair[kind]), **look)
        names = f"{pair['dense']} / {pair['sparse']}"
        ratio.plot(batch, [row["advantage"] for row in pair["rows"]], label=literal(names), **look)
    ratio.axhline(1, color=GREY, linewidth=1)
    for axes in (energy, ratio):
        axes.set_xscale("log", base=2)
        axes.set_xticks(batch, [str(b) for b in batch])
        axes.set_xlabel("texts that share a step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    energy.set_yscale("log")
    energy.set_ylabel("joules per token")
    energy.set_title("dashed: dense; solid: sparse", fontsize=10)
    ratio.set_ylim(bottom=0)
    ratio.set_title("dense over sparse: above 1 sparse needs less", fontsize=10)
    energy.legend(frameon=False, fontsize=8)
    ratio.legend(frameon=False, fontsize=8)
    return figure
