"""Figures of capacity: which assignments find a place, how many are dropped, and what that costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..typing import Array, Bool, Float, Int
from .style import BLUE, GREY, ORANGE, STYLES, columns_for, expert_ticks, grid

_EMPTY = "#E5E5E5"


@dataclass(frozen=True, eq=False)
class LossByFactor:
    """Task loss of one setting: several seeds, at several capacity factors and without a limit.

    Attributes:
        label: the setting.
        loss: [seeds, factors].
        unlimited: [seeds].
    """

    label: str
    loss: Float[Array, "runs factors"]
    unlimited: Float[Array, " runs"]


def load_against_capacity(loads: Mapping[str, Int[Array, " E"]], capacity: int) -> Figure:
    """The load of each expert, kept and dropped, and the places left empty; one panel per router."""
    columns = columns_for(len(loads))
    title = f"Each expert has {capacity} places"
    figure, panels = grid(len(loads), columns, height=3.6 * -(-len(loads) // columns), title=title)
    highest = max(capacity, *(int(load.max()) for load in loads.values()))
    for (name, load), axes in zip(loads.items(), panels, strict=True):
        expert = np.arange(len(load))
        kept = np.minimum(load, capacity)
        axes.bar(expert, capacity, color=_EMPTY, width=0.75)
        axes.bar(expert, kept, color=BLUE, width=0.75)
        full = load > capacity
        lost = (load - kept)[full]
        axes.bar(expert[full], lost, bottom=capacity, color="white", edgecolor=ORANGE, hatch="///", width=0.75)
        axes.axhline(capacity, color="black", linewidth=1.2)
        axes.set_title(f"{name}: {int(lost.sum())} of {int(load.sum())} dropped", fontsize=10)
        axes.set_ylim(0, 1.08 * highest)
        axes.set_xlabel("expert")
        expert_ticks(axes, len(load))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("assignments")
    handles = [
        Patch(facecolor=BLUE, label="kept"),
        Patch(facecolor="white", edgecolor=ORANGE, hatch="///", label="dropped"),
        Patch(facecolor=_EMPTY, label="empty place"),
    ]
    panels[-1].legend(handles=handles, frameon=False, fontsize=9)
    return figure


def who_finds_a_place(rank: Int[Array, "T E"], fits: Mapping[str, Bool[Array, "T E"]]) -> Figure:
    """Which token gets a place at which expert; one panel per rule.

    Args:
        rank: 0 where the expert is the token's first choice, 1 for the second, and so on; -1 where not chosen.
        fits: per rule, whether an assignment found a place.
    """
    columns = columns_for(len(fits))
    num_tokens, num_experts = rank.shape
    height = 0.8 + (0.8 + 0.36 * num_experts) * -(-len(fits) // columns)
    title = "Who finds a place (1: first choice, 2: second; ×: dropped)"
    figure, panels = grid(len(fits), columns, height=height, title=title)
    for i, ((name, places), axes) in enumerate(zip(fits.items(), panels, strict=True)):
        for t, e in np.argwhere(rank >= 0):
            kept = bool(places[t, e])
            edge, fill, ink = (BLUE, BLUE, "white") if kept else (ORANGE, "white", ORANGE)
            axes.plot(t, e, "o" if kept else "s", color=fill, markeredgecolor=edge, markersize=17, markeredgewidth=1.5)
            number = f"{rank[t, e] + 1}" if kept else f"{rank[t, e] + 1}×"
            axes.text(t, e, number, ha="center", va="center", fontsize=10, color=ink, fontweight="bold")
        axes.set_title(name, fontsize=10)
        axes.set_xlim(-0.6, num_tokens - 0.4)
        axes.set_ylim(num_experts - 0.4, -0.6)
        axes.set_xticks(range(num_tokens))
        axes.set_yticks(range(num_experts))
        axes.grid(alpha=0.2)
        if i % columns == 0:
            axes.set_ylabel("expert")
        if i + columns >= len(fits):
            axes.set_xlabel("token")
    return figure


def drop_rates(
    factor: Float[Array, " factors"], rates: Mapping[str, Float[Array, " factors"]], least: Float[Array, " factors"]
) -> Figure:
    """Dropped fraction against the capacity factor, and the least any router must drop."""
    figure, (axes,) = grid(1, 1, height=4.0, title="How many assignments are dropped")
    axes.fill_between(factor, 0, 100 * least, color=_EMPTY, label="unavoidable: fewer places than assignments")
    for (label, rate), style in zip(rates.items(), STYLES, strict=False):
        axes.plot(factor, 100 * rate, **style, markevery=max(len(factor) // 10, 1), linewidth=1.8, label=label)
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_xlabel("capacity factor")
    axes.set_ylabel("% of assignments dropped")
    axes.set_ylim(bottom=0)
    axes.set_xlim(float(factor[0]), float(factor[-1]))
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def loss_by_factor(factor: Sequence[float], panels: Mapping[str, Sequence[LossByFactor]]) -> Figure:
    """Task loss against the capacity factor, one panel per group, one scale; small dots are seeds, ∞ is no limit."""
    figure, all_axes = grid(len(panels), columns_for(len(panels)), height=4.0, title="What dropping does to the loss")
    place = np.arange(len(factor) + 1)
    top = 1.05 * max(max(line.loss.max(), line.unlimited.max()) for group in panels.values() for line in group)
    for (name, group), axes in zip(panels.items(), all_axes, strict=True):
        for line, style in zip(group, STYLES, strict=False):
            values = np.concatenate([line.loss, line.unlimited[:, None]], axis=1)
            axes.plot(place, values.T, linestyle="none", marker=".", color=style["color"], alpha=0.45)
            axes.plot(place, values.mean(axis=0), **style, linewidth=2, markersize=7, label=line.label)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(place, [*(f"{f:g}" for f in factor), "∞"])
        axes.set_xlabel("capacity factor")
        axes.set_ylim(0, top)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    all_axes[0].set_ylabel("task loss")
    return figure
