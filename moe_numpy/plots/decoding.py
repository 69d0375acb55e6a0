"""The figures of decoding: experts that a batch reads, weights in few bits, and a cache that forgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..typing import Array, Float, Int
from .style import BLUE, GREEN, GREY, ORANGE, STYLES, grid, literal

_COLUMNS = 8  # experts beside each other
_HIT, _MISS, _HELD = GREEN, ORANGE, "#E8E8E8"


@dataclass(frozen=True)
class CacheStep:
    """One request to a cache.

    Attributes:
        asked: the expert.
        hit: whether it was there.
        held: what the slots hold after it.
    """

    asked: str
    hit: bool
    held: tuple[str, ...]


def experts_of_batches(chosen: Sequence[Int[Array, "_ k"]], num_experts: int) -> Figure:
    """A square per expert, one panel per batch: grey is not read; the number is how many tokens chose it.

    Args:
        chosen: by panel, at most 4, the experts of each token.
        num_experts: E.
    """
    rows = -(-num_experts // _COLUMNS)
    figure, panels = grid(len(chosen), len(chosen), height=0.9 + 0.34 * rows, title="Experts that a batch reads")
    for axes, experts in zip(panels, chosen, strict=True):
        tokens = np.bincount(experts.ravel(), minlength=num_experts)
        for e, count in enumerate(tokens.tolist()):
            column, row = e % _COLUMNS, e // _COLUMNS
            axes.add_patch(Rectangle((column, row), 0.92, 0.92, color=BLUE if count else _HELD))
            if count:
                axes.text(column + 0.46, row + 0.5, str(count), ha="center", va="center", color="white", fontsize=9)
        name = "1 token" if len(experts) == 1 else f"{len(experts)} tokens"
        axes.set_title(f"{name}: {np.count_nonzero(tokens)} of {num_experts}", fontsize=11)
        axes.set_xlim(-0.1, _COLUMNS + 0.1)
        axes.set_ylim(rows + 0.1, -0.1)
        axes.set_aspect("equal")
        axes.axis("off")
    return figure


def experts_over_batch(
    batch: Int[Array, " n"],
    experts: Mapping[str, Float[Array, " n"]],
    bytes_per_token: Mapping[str, Float[Array, " n"]],
    num_experts: int,
) -> Figure:
    """Left: distinct experts of a layer against the batch. Right: weights read per token, relative to a batch of 1.

    Args:
        batch: tokens that share a call, ascending, powers of 2.
        experts: by name of at most 4 lines.
        bytes_per_token: of at most 4 lines, 1 for a batch of 1.
        num_experts: E.
    """
    figure, (left, right) = grid(2, 2, height=4.2, title="What a batch shares")
    for axes, lines in ((left, experts), (right, bytes_per_token)):
        for (name, y), style in zip(lines.items(), STYLES, strict=False):
            axes.plot(batch, y, label=literal(name), linewidth=2, markersize=6, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(batch, [str(n) for n in batch])
        axes.set_xlabel("tokens that share a call")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    left.axhline(num_experts, color=GREY, linewidth=1)
    left.set_ylim(0, 1.08 * num_experts)
    left.set_ylabel("different experts of a layer")
    right.set_yscale("log", base=2)
    ticks = [2.0**-i for i in range(len(batch))]
    right.set_yticks(ticks, [f"1/{round(1 / y)}" if y < 1 else "1" for y in ticks])
    right.set_ylabel("bytes of weights per token, 1 alone")
    return figure


def rounded_group(
    weights: Float[Array, " n"],
    levels: Float[Array, " m"],
    rounded: Float[Array, " n"],
    bits: Mapping[str, float],
    error: Mapping[str, float],
) -> Figure:
    """Left: a group of weights and where a format puts them. Right: the error of formats against their bits.

    Args:
        weights: as they are.
        levels: the values that the format has for this group.
        rounded: each weight's.
        bits: per weight, scales included, by format.
        error: root mean square error over root mean square weight, by format; above 0.
    """
    figure, (left, right) = grid(2, 2, height=4.2, title="Weights in fewer bits")
    for level in levels.tolist():
        left.axhline(level, color=GREY, linewidth=0.6, alpha=0.6)
    at = np.arange(len(weights))
    left.vlines(at, np.minimum(weights, rounded), np.maximum(weights, rounded), color=GREY, linewidth=1)
    left.plot(at, weights, "o", color=BLUE, markersize=5, label="weight")
    left.plot(at, rounded, "s", color=ORANGE, markersize=4, label="stored")
    left.set_xlabel("number in the group")
    left.set_ylabel("value; lines are the levels")
    left.legend(frameon=False, fontsize=9, loc="lower right", ncols=2, bbox_to_anchor=(1, 1))
    for name, x in bits.items():
        right.plot(x, 100 * error[name], "o", color=BLUE, markersize=7)
        right.annotate(literal(name), (x, 100 * error[name]), (7, 5), textcoords="offset points", fontsize=10)
    right.set_xscale("log", base=2)
    right.set_xticks([4, 8, 16], ["4", "8", "16"])
    right.set_xlim(3.7, 24)
    right.set_yscale("log")
    right.margins(y=0.15)
    right.set_xlabel("bits per weight, scales included")
    right.set_ylabel("error, % of the weights")
    right.grid(alpha=0.25)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def cache_steps(policies: Mapping[str, Sequence[CacheStep]]) -> Figure:
    """What a cache holds after each request, one panel per policy, from left to right. Hits and misses are marked.

    Args:
        policies: the same requests by name of the policy.
    """
    slots = max(len(step.held) for steps in policies.values() for step in steps)
    height = 0.7 + len(policies) * (0.9 + 0.3 * slots)
    figure, panels = grid(len(policies), 1, height=height, title="Requests to a cache, one after the other")
    for axes, (name, steps) in zip(panels, policies.items(), strict=True):
        for i, step in enumerate(steps):
            colour = _HIT if step.hit else _MISS
            axes.text(i + 0.46, -0.55, step.asked, ha="center", va="center", fontsize=12, fontweight="bold")
            axes.text(i + 0.46, slots + 0.35, "hit" if step.hit else "miss", ha="center", fontsize=9, color=colour)
            for slot, expert in enumerate(step.held):
                mine = expert == step.asked
                axes.add_patch(Rectangle((i, slot), 0.92, 0.9, color=colour if mine else _HELD))
                shade = "white" if mine else "black"
                axes.text(i + 0.46, slot + 0.47, expert, ha="center", va="center", fontsize=11, color=shade)
        hits = sum(step.hit for step in steps)
        axes.set_title(f"{literal(name)}: {hits} of {len(steps)} found", fontsize=11, loc="left")
        axes.set_xlim(-0.1, len(steps) + 0.1)
        axes.set_ylim(slots + 0.6, -1)
        axes.axis("off")
    return figure
