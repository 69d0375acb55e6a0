"""Figures of experts in a memory that has no room for all of them."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from ..typing import Array, Float, Int
from .style import STYLES, grid, literal


def hits_over_budget(budget: Int[Array, " n"], hit_rate: Mapping[str, Float[Array, " n"]]) -> Figure:
    """How many requests for experts find them in memory, against the memory, by policy.

    Args:
        budget: bytes for experts, ascending.
        hit_rate: from 0 to 1 by the name of at most 4 policies.
    """
    figure, (axes,) = grid(1, 1, height=4.6, title="Experts found in memory")
    unit, name = (1e9, "GB") if budget[-1] >= 2e9 else (1e6, "MB") if budget[-1] >= 2e6 else (1e3, "KB")
    for (policy, rate), style in zip(hit_rate.items(), STYLES, strict=False):
        axes.plot(budget / unit, 100 * rate, label=literal(policy), linewidth=2, markersize=6, **style)
    axes.set_ylim(-3, 103)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"memory for experts, {name}")
    axes.set_ylabel("% of requests")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=10)
    return figure
