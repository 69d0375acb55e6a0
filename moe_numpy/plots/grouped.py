"""The figures of grouped products on a GPU: how the result is cut into tiles, how one is computed, what they take.

``python -m moe_numpy.plots.grouped FOLDER`` draws the first two, which are the same everywhere.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from .files import save
from .style import BLUE, GREEN, GREY, ORANGE, PINK, grid

ROWS_OF_EXPERTS = (300, 90, 0, 420)  # of the first figure
WIDTH, BM, BN, BLOCKS = 512, 128, 256, 5
_STAGES = 4  # that fit for tiles of 128 x 256
_GROUP = 16  # as GROUP in grouped_gemm.cu
_COLOURS = (BLUE, ORANGE, GREEN, PINK)
_TIMES = (  # key of a row, label, colour, marker
    ("floor_ms", "floor", GREY, "|"),
    ("gemm_ms", "six grouped products", GREEN, "^"),
    ("ours_ms", "layer", BLUE, "o"),
    ("peer_ms", "transformers, grouped_mm", ORANGE, "s"),
)


@dataclass(frozen=True)
class Tile:
    """A tile of the result: its expert, its corner, and how many of its rows belong to the expert."""

    expert: int
    row: int
    column: int
    rows: int


def tiles(rows_of_experts: Sequence[int], width: int, bm: int, bn: int) -> Iterator[Tile]:
    """The tiles in the order in which blocks take them: expert by expert, up to 16 rows of them, column by column."""
    begin = 0
    for expert, count in enumerate(rows_of_experts):
        height = math.ceil(count / bm)
        for first in range(0, height, _GROUP):
            for column in range(0, width, bn):
                for i in range(first, min(first + _GROUP, height)):
                    yield Tile(expert, begin + i * bm, column, min(bm, count - i * bm))
        begin += count


def grouped_tiles(
    rows_of_experts: Sequence[int] = ROWS_OF_EXPERTS,
    width: int = WIDTH,
    bm: int = BM,
    bn: int = BN,
    blocks: int = BLOCKS,
) -> Figure:
    """The stacked rows of all experts, cut into tiles that never cross an expert, and the blocks that take them."""
    figure, axes = grid(2, 2, height=7.0, title="All experts' products in one launch")
    result, work = axes
    cut = list(tiles(rows_of_experts, width, bm, bn))
    ends = np.cumsum(rows_of_experts).tolist()
    heights = [max(math.ceil(count / bm) * bm, bm // 3) for count in rows_of_experts]
    tops = [0, *np.cumsum([height + bm // 4 for height in heights]).tolist()]  # experts are drawn apart
    for number, tile in enumerate(cut):
        begin = ends[tile.expert] - rows_of_experts[tile.expert]
        _tile(result, tile, tops[tile.expert] + tile.row - begin, f"{number}: block {number % blocks}", bm, bn)
    for expert, (count, end, top, height) in enumerate(zip(rows_of_experts, ends, tops, heights, strict=False)):
        text = f"expert {expert}\nrows {end - count} ... {end - 1}" if count else f"expert {expert}\nno rows"
        result.text(-24, top + height / 2, text, ha="right", va="center", fontsize=10)
        result.plot([-12, -12], [top, top + count], color=_colour(expert), linewidth=5, solid_capstyle="butt")
    result.set_xlim(-190, width + 10)
    result.set_ylim(tops[-1], -10)
    result.set_xticks(range(0, width + 1, bn))
    result.set_yticks([])
    result.set_title(f"the result, {ends[-1]} x {width}: tiles of {bm} x {bn}", fontsize=11)
    result.set_xlabel("columns; dashed: computed, not written")
    result.spines[:].set_visible(False)
    for number, tile in enumerate(cut):
        block, place = number % blocks, number // blocks
        work.add_patch(Rectangle((place + 0.04, block - 0.38), 0.92, 0.76, facecolor=_colour(tile.expert), alpha=0.35))
        work.text(place + 0.5, block, str(number), ha="center", va="center", fontsize=11)
    work.set_xlim(0, math.ceil(len(cut) / blocks))
    work.set_ylim(blocks - 0.4, -0.6)
    work.set_yticks(range(blocks), [f"block {block}" for block in range(blocks)])
    work.set_xticks([])
    work.set_xlabel("time →")
    work.set_title(
        f"{blocks} blocks, {len(cut)} tiles: block b takes tiles b, b + {blocks}, b + {2 * blocks}, ...", fontsize=11
    )
    work.tick_params(axis="y", length=0)
    work.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def ring_of_stages() -> Figure:
    """One tile, and the ring of stages in shared memory between the warp groups that fetch and those that multiply."""
    figure, (axes,) = grid(1, 1, height=5.4, title="Inside a block: one tile, step by step")
    axes.set_xlim(0, 20)
    axes.set_ylim(0, 10.4)
    axes.set_aspect("equal")
    axes.axis("off")
    # the tile: a beside it, b above it, cut along the sum
    x, y, w, h, steps = 4.3, 1.0, 4.0, 3.0, 4
    _box(axes, x, y, w, h / 2, "warp group 2\nadds up rows 64 ... 127", BLUE, 0.20)
    _box(axes, x, y + h / 2, w, h / 2, "warp group 1\nadds up rows 0 ... 63", BLUE, 0.35)
    axes.text(x + w / 2, y - 0.35, f"y: {BM} x {BN} sums, in registers", ha="center", va="center", fontsize=10)
    for i in range(steps):
        used = 0.55 if i == 1 else 0.12
        _box(axes, 0.3 + i * 0.9, y, 0.9, h, "", ORANGE, used)
        _box(axes, x, y + h + 0.3 + (steps - 1 - i) * 0.9, w, 0.9, "", GREEN, used)
    axes.text(0.3 + 0.9 * steps / 2, y - 0.35, f"a: {BM} rows", ha="center", va="center", fontsize=10)
    axes.text(x + w / 2, y + h + 0.6 + 0.9 * steps, f"b: {BN} columns", ha="center", va="center", fontsize=10)
    axes.text(3.8, y + h + 2.1, "a step is 64\nof the sum", ha="right", va="center", fontsize=10)
    # the ring
    left, bottom, size = 10.6, 4.1, 1.75
    states = ("multiplied", "full", "full", "being\nfilled")
    for i in range(_STAGES):
        colour = {"multiplied": BLUE, "full": GREEN}.get(states[i], GREY)
        _box(axes, left + i * (size + 0.5), bottom, size, 1.5, f"stage {i}\n{states[i]}", colour, 0.25)
        if i:
            _arrow(
                axes, (left + i * (size + 0.5) - 0.45, bottom + 0.75), (left + i * (size + 0.5) - 0.05, bottom + 0.75)
            )
    right = left + (_STAGES - 1) * (size + 0.5) + size
    axes.add_patch(
        FancyArrowPatch(
            (right - 0.4, bottom), (left + 0.4, bottom), connectionstyle="arc3,rad=-0.12", arrowstyle="-|>",
            mutation_scale=12, color=GREY, linestyle="--",
        )
    )  # fmt: skip
    middle = (left + right) / 2
    axes.text(middle, bottom + 1.85, f"shared memory: a ring of {_STAGES} stages", ha="center", fontsize=10)
    _box(
        axes,
        left,
        7.9,
        right - left,
        1.5,
        "warp group 0, the producer: one thread asks the\ncopy engine for the next stage",
        GREY,
        0.15,
    )
    _box(
        axes,
        left,
        0.65,
        right - left,
        1.5,
        "warp groups 1 and 2, the consumers:\ntensor cores multiply the oldest full stage",
        BLUE,
        0.25,
    )
    at = right - size / 2
    _arrow(axes, (at, 7.85), (at, bottom + 1.55), ORANGE)
    axes.text(at - 0.15, 6.9, "64 of a and of b,\nas soon as it is empty", ha="right", va="center", fontsize=9)
    at = left + size / 2
    _arrow(axes, (at, bottom - 0.05), (at, 2.2), ORANGE)
    axes.text(at + 0.2, 2.65, "as soon as it is full; then it is empty again", va="center", fontsize=9)
    return figure


def product_times(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Of each layer: the floor of its products, the products, the whole layer, and the peer; logarithmic.

    Args:
        rows: of ``python -m moe_numpy bench layer --against torch --device cuda --dtype bfloat16 --json``.
    """
    title = "One layer on a GPU, forward and backward"
    figure, (axes,) = grid(1, 1, height=1.9 + 0.3 * len(rows), title=title)
    at = np.arange(len(rows))
    times = {key: np.array([row[key] for row in rows]) for key, *_ in _TIMES}
    axes.hlines(at, times["floor_ms"], times["peer_ms"], color=GREY, linewidth=0.8, alpha=0.6)
    for key, label, colour, marker in _TIMES:
        size, edge = (13, 2.5) if marker == "|" else (7, 1.2)
        face = "none" if key == "gemm_ms" else colour
        axes.plot(
            times[key],
            at,
            marker,
            color=colour,
            markerfacecolor=face,
            markersize=size,
            markeredgewidth=edge,
            label=label,
            zorder=4 if face == "none" else 3,
        )
    highest = max(times["peer_ms"])
    for y, row in enumerate(rows):
        axes.text(1.6 * highest, y, f"{row['ours_ms'] / row['peer_ms']:.2f}", va="center", fontsize=10)
    axes.text(1.6 * highest, -0.9, "layer / peer", va="center", ha="center", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(0.8 * min(times["floor_ms"]), 2.4 * highest)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(at, ["T={} d={} f={} E={} k={}".format(*row["shape"]) for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -1.4)
    axes.set_xlabel("milliseconds")
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    return figure


def _tile(axes: Axes, tile: Tile, top: float, text: str, bm: int, bn: int) -> None:
    """The rows of its expert are filled; the dashed rest lies over rows of the next one."""
    inset, colour = 5, _colour(tile.expert)
    corner, width = (tile.column + inset, top + inset), bn - 2 * inset
    axes.add_patch(Rectangle(corner, width, tile.rows - 2 * inset, facecolor=colour, alpha=0.35))
    axes.add_patch(
        Rectangle(corner, width, bm - 2 * inset, fill=False, edgecolor=colour, linestyle="--", linewidth=1.2)
    )
    middle = tile.rows / 2 if tile.rows > bm / 2 else 0.7 * bm  # where there is room
    axes.text(tile.column + bn / 2, top + middle, text, ha="center", va="center", fontsize=10)


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, alpha: float) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, alpha=alpha))
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="black", linewidth=0.8))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9.5)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = GREY) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color=colour, linewidth=1.6))


def _colour(expert: int) -> str:
    return _COLOURS[expert % len(_COLOURS)]


def main(folder: Path) -> None:
    """Draw the two figures that need no measurement."""
    save(grouped_tiles(), folder / "grouped_tiles.png")
    save(ring_of_stages(), folder / "grouped_ring.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
