"""Figures of experts that change: copies that drift apart, a new domain, fewer experts, trees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..typing import Array, Float
from .style import BLUE, GREY, ORANGE, STYLES, grid


def copies_apart(distance: Mapping[str, Float[Array, " N"]], load: Mapping[str, Float[Array, " E"]]) -> Figure:
    """How far copies of one network drift apart in training, and how many assignments each gets.

    Args:
        distance: by setting, the mean distance between two experts after each step, beside the length of one.
        load: by setting, each expert's share of the assignments.
    """
    figure, (left, right) = grid(2, 2, height=3.8, title="Copies of one dense network, trained further")
    for (name, values), style in zip(distance.items(), STYLES, strict=False):
        steps = np.arange(1, len(values) + 1)
        left.plot(steps, 100 * values, **style, markevery=max(len(steps) // 8, 1), linewidth=1.8, label=name)
    left.set_xlabel("step")
    left.set_ylabel("mean distance of two experts,\n% of an expert's length")
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=9)
    left.grid(alpha=0.25)
    shares = np.stack(list(load.values()))
    image = right.imshow(100 * shares, aspect="auto", cmap="cividis", vmin=0, vmax=100 * shares.max())
    for row, expert in np.ndindex(*shares.shape):
        share = shares[row, expert]
        colour = "black" if share > 0.55 * shares.max() else "white"
        right.text(expert, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=10)
    right.set_yticks(range(len(load)), list(load))
    right.set_xticks(range(shares.shape[1]))
    right.tick_params(length=0)
    right.set_xlabel("expert")
    right.set_title("share of the assignments, %", fontsize=10)
    figure.colorbar(image, ax=right, pad=0.02)
    return figure


@dataclass(frozen=True)
class NewDomain:
    """One way to learn a new domain: losses in nats per byte of held-out text, before and after.

    Attributes:
        old: of the old domains, their mean.
        new: of the new one.
    """

    old: tuple[float, float]
    new: tuple[float, float]


def new_domain(ways: Mapping[str, NewDomain]) -> Figure:
    """For each way, an arrow from the loss before to the loss after, on old and on new text."""
    title = "Learning a new domain: held-out loss before (open) and after (filled)"
    figure, (axes,) = grid(1, 1, height=1.3 + 0.8 * len(ways), title=title)
    for place, way in enumerate(ways.values()):
        kinds = (("old text", way.old, BLUE, "o", -0.16), ("new domain", way.new, ORANGE, "s", 0.16))
        for name, (before, after), colour, marker, shift in kinds:
            y = place + shift
            axes.annotate("", (after, y), (before, y), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.8})
            axes.plot(before, y, marker, color=colour, markersize=9, markerfacecolor="white")
            axes.plot(after, y, marker, color=colour, markersize=9, label=name if place == 0 else None)
            axes.annotate(f"{after - before:+.3f}", (max(before, after), y), xytext=(10, 0),
                          textcoords="offset points", va="center", color=colour, fontsize=10)  # fmt: skip
    axes.set_yticks(range(len(ways)), list(ways))
    axes.set_ylim(len(ways) - 0.5, -0.5)
    axes.set_xlabel("nats per byte")
    axes.margins(x=0.14)
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return figure


def fewer_experts(counts: Sequence[int], rise: Mapping[str, Sequence[float]], *, num_experts: int) -> Figure:
    """How much the loss rises when each layer loses some of its experts, one line per way to choose them."""
    title = f"Without further training: what it costs to lose experts, of {num_experts} in each layer"
    figure, (axes,) = grid(1, 1, height=3.9, title=title)
    for (name, values), style in zip(rise.items(), STYLES, strict=False):
        axes.plot([0, *counts], [0.0, *values], **style, linewidth=1.8, markersize=7, label=name)
    axes.set_xticks([0, *counts])
    axes.set_xlabel("experts that each layer loses")
    axes.set_ylabel("rise of the held-out loss,\nnats per byte")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def tree_of_experts(gates: Sequence[Float[Array, "..."]], *, title: str) -> Figure:
    """One token on its way through a tree of routers: gate weights at the branches, their products at the experts.

    Args:
        gates: by level, [b₀], [b₀, b₁], ...: the gate weight of each branch, and of each expert at the last level; 0
            where the token does not go.
        title: of the figure.
    """
    figure, (axes,) = grid(1, 1, height=4.2, title=title)
    leaves = gates[-1].shape
    width = int(np.prod(leaves))
    _branches(axes, gates, (), (width - 1) / 2, 1.0)
    for number, path in enumerate(np.ndindex(*leaves)):
        product = float(np.prod([level[path[: i + 1]] for i, level in enumerate(gates)]))
        reached = product > 0
        axes.text(number, len(gates) + 0.34, f"{product:.3f}" if reached else "·", ha="center", va="center",
                  fontsize=10, fontweight="bold" if reached else None, color="black" if reached else GREY)  # fmt: skip
        axes.text(number, len(gates), str(number), ha="center", va="center", fontsize=10,
                  color="white" if reached else GREY)  # fmt: skip
    axes.text(-0.9, len(gates), "expert", ha="right", va="center", fontsize=10)
    axes.text(-0.9, len(gates) + 0.34, "product", ha="right", va="center", fontsize=10)
    axes.set_xlim(-1.9, width - 0.5)
    axes.set_ylim(len(gates) + 0.55, -0.3)
    axes.axis("off")
    return figure


def _branches(axes: Axes, gates: Sequence[Float[Array, "..."]], path: tuple[int, ...], x: float, weight: float) -> None:
    """A node at ``x`` and all below it; ``weight`` is its own gate weight."""
    depth, reached = len(path), weight > 0
    style: dict[str, Any] = {
        "markerfacecolor": BLUE if reached else "white",
        "markeredgecolor": BLUE if reached else GREY,
    }
    axes.plot(x, depth, "o" if depth == len(gates) else "s", markersize=19, zorder=3, **style)
    if depth == len(gates):
        return
    for i, below in enumerate(np.atleast_1d(gates[depth][path])):
        child = (*path, i)
        span = int(np.prod(gates[-1].shape[depth + 1 :]))
        first = int(np.ravel_multi_index((*child, *[0] * (gates[-1].ndim - depth - 1)), gates[-1].shape))
        to, own = first + (span - 1) / 2, float(below)
        colour, thickness = (BLUE, 1 + 5 * own) if own > 0 else ("#BBBBBB", 0.8)
        axes.plot([x, to], [depth, depth + 1], color=colour, linewidth=thickness, zorder=1)
        if own > 0:
            near = 0.45 + 0.12 * (i % 2)  # neighbours' numbers at different heights
            axes.text(x + near * (to - x), depth + near, f"{own:.2f}", ha="center", va="center", fontsize=9, zorder=4,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})  # fmt: skip
        _branches(axes, gates, child, to, weight * own)
