"""The figures of experts on many ranks: rows that travel, what travels between ranks, and who has how much to do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..parallel import Placement
from ..typing import Array, Float, Int
from .style import BLUE, GREEN, GREY, ORANGE, PINK, grid, literal

_COLOURS = (BLUE, ORANGE, GREEN, PINK)
_GAP = 0.8  # between ranks, in widths of a box


def rows_to_ranks(
    tokens: Sequence[str], expert: Int[Array, " N"], rank: Int[Array, " N"], placement: Placement
) -> Figure:
    """Each token with its expert at home, and below, the rows as they lie on the ranks of the experts.

    Args:
        tokens: a letter each, with one expert.
        expert: that each asks for.
        rank: where each is at home, ascending.
        placement: who holds which expert; each on one rank.
    """
    figure, (axes,) = grid(1, 1, height=3.9, title="Rows travel to the ranks of their experts")
    slot = placement.slot_of(expert, np.arange(len(tokens)))
    arriving = np.argsort(slot, kind="stable")  # by slot, then by rank and token
    holder = placement.slot_rank[slot[arriving]]
    above, below = _places(rank), _places(holder)
    for n, t in enumerate(arriving.tolist()):
        e, stays = int(expert[t]), holder[n] == rank[t]
        style: Any = {"linestyle": ":" if stays else "-", "linewidth": 1.6 if stays else 2.2}
        axes.plot([above[t] + 0.45, below[n] + 0.45], [0.98, 0.42], color=_COLOURS[e % 4], **style)
        for x, y in ((above[t], 1.0), (below[n], 0.0)):
            axes.add_patch(Rectangle((x, y), 0.9, 0.4, color=_COLOURS[e % 4]))
            text = f"{tokens[t]} → {e}" if y else tokens[t]
            axes.text(x + 0.45, y + 0.2, text, ha="center", va="center", color="white", fontsize=11)
    for r in range(placement.num_ranks):
        held = ", ".join(str(e) for e in placement.experts[r])
        home, away = above[rank == r], below[holder == r]
        for x, y, name in ((home, 1.5, f"rank {r}: its tokens"), (away, -0.2, f"rank {r}: experts {held}")):
            if len(x):
                axes.text((x[0] + x[-1] + 0.9) / 2, y, name, ha="center", va="center", fontsize=11)
    axes.set_xlim(-0.2, max(above[-1], below[-1]) + 1.1)
    axes.set_ylim(-0.35, 1.65)
    axes.axis("off")
    return figure


def traffic(matrices: Mapping[str, Int[Array, "R R"]], *, unit: str) -> Figure:
    """What each rank sends to each other, one panel per case, with one scale; grey is what stays on a rank.

    Args:
        matrices: from row to column, by title of at most 3 panels.
        unit: of the numbers.
    """
    figure, panels = grid(len(matrices), len(matrices), height=3.9, title="From rank to rank")
    apart = [np.where(np.eye(len(m), dtype=bool), np.nan, m) for m in matrices.values()]
    top = max(np.nanmax(m) for m in apart)
    image: Any = None
    for axes, (name, matrix), sent in zip(panels, matrices.items(), apart, strict=True):
        axes.set_facecolor("#DDDDDD")
        image = axes.imshow(sent, cmap="cividis", vmin=0, vmax=top)
        for (r, s), value in np.ndenumerate(matrix):
            shade = "black" if r == s or sent[r, s] > 0.55 * top else "white"
            axes.text(s, r, f"{value:,}", ha="center", va="center", fontsize=11, color=shade)
        axes.set_title(literal(name), fontsize=11)
        axes.set_xticks(range(len(matrix)))
        axes.set_yticks(range(len(matrix)))
        axes.set_xlabel("to rank")
        axes.set_ylabel("from rank")
    figure.colorbar(image, ax=panels, label=unit, fraction=0.03, pad=0.02)
    return figure


def loads_of_ranks(load: Float[Array, " E"], placements: Mapping[str, Placement]) -> Figure:
    """The load of each rank as a stack of its experts, one panel per placement; the line is the mean of the ranks.

    Args:
        load: of each expert; its replicas share it evenly.
        placements: by title of at most 4 panels.
    """
    figure, panels = grid(len(placements), len(placements), height=4.0, title="The load of each rank")
    top = max(placement.rank_load(load).max() for placement in placements.values())
    for axes, (name, placement) in zip(panels, placements.items(), strict=True):
        of_rank = placement.rank_load(load)
        for r, held in enumerate(placement.experts):
            bottom = 0.0
            for i, e in enumerate(held):
                height = float(load[e]) / float(placement.counts[e])
                replica = placement.counts[e] > 1
                colour = ORANGE if replica else BLUE
                axes.bar(r, height, 0.8, bottom=bottom, color=colour, alpha=1 - 0.25 * (i % 2), edgecolor="white")
                if height > 0.05 * top:
                    axes.text(r, bottom + height / 2, str(e), ha="center", va="center", color="white", fontsize=10)
                bottom += height
        mean = of_rank.mean()
        axes.axhline(mean, color=GREY, linestyle="--", linewidth=1.2)
        axes.set_title(f"{literal(name)}:\nthe largest is {of_rank.max() / mean:.2f} × the mean", fontsize=11)
        axes.set_ylim(0, 1.05 * top)
        axes.set_xticks(range(placement.num_ranks))
        axes.set_xlabel("rank; numbers are experts")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("assignments; orange has replicas")
    return figure


def domains_under_balance(share: Mapping[str, Float[Array, "D E"]], domains: Sequence[str]) -> Figure:
    """The share of each domain's assignments that each expert gets, one panel per run, with one scale.

    Args:
        share: by title of the panel; rows sum to 1.
        domains: their names.
    """
    rows = -(-len(share) // 2)
    title = "Experts by domain, % of the domain's assignments"
    figure, panels = grid(len(share), 2, height=0.7 + 1.75 * rows, title=title)
    top = max(float(table.max()) for table in share.values())
    image: Any = None
    for axes, (name, table) in zip(panels, share.items(), strict=True):
        image = axes.imshow(100 * table, aspect="auto", cmap="cividis", vmin=0, vmax=100 * top)
        for (d, e), value in np.ndenumerate(table):
            shade = "black" if value > 0.55 * top else "white"
            axes.text(e, d, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=shade)
        axes.set_title(literal(name), fontsize=11)
        axes.set_yticks(range(len(domains)), [literal(domain) for domain in domains])
        axes.set_xticks(range(table.shape[1]))
    for axes in panels[-2:]:
        axes.set_xlabel("expert")
    figure.colorbar(image, ax=panels, label="%", fraction=0.03, pad=0.02)
    return figure


def _places(rank: Int[Array, " N"]) -> Float[Array, " N"]:
    """Where boxes stand that belong to ranks, ascending: side by side, with a gap between ranks."""
    return np.arange(len(rank)) + _GAP * rank
