"""Figures of the mistakes: what a wrong router does, beside the right one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..typing import Array, Float
from .style import GREY, STYLES, grid, smoothed


def learning_and_moving(loss: Mapping[str, Float[Array, "S N"]], moved: Mapping[str, Float[Array, "S N"]]) -> Figure:
    """Loss and distance of the router from its start over N steps: the mean and the range of S seeds."""
    figure, (left, right) = grid(2, 2, height=3.8, title="The task is learned; does the router learn?")
    for axes, runs, label in ((left, loss, "task loss"), (right, moved, "largest change of an entry of $W_g$")):
        for i, (name, values) in enumerate(runs.items()):
            shown = np.stack([smoothed(run) for run in values]) if axes is left else values
            step = np.arange(shown.shape[1])
            axes.fill_between(step, shown.min(axis=0), shown.max(axis=0), color=STYLES[i]["color"], alpha=0.15)
            _line(axes, step, shown.mean(axis=0), i, name)
        axes.set_ylabel(label)
        axes.set_xlabel("step")
    left.set_yscale("log")
    left.legend(frameon=False)
    return figure


def forbidden_choices(shift: Float[Array, " N"], forbidden: Mapping[str, Float[Array, " N"]]) -> Figure:
    """The fraction of choices outside the allowed groups, against a shift of all scores that should change nothing."""
    figure, (axes,) = grid(1, 1, height=3.4, title="Choices of forbidden experts")
    for i, (name, fraction) in enumerate(forbidden.items()):
        _line(axes, shift, 100 * fraction, i, name)
    axes.invert_xaxis()
    axes.set_xlabel("the same constant added to all scores of all experts")
    axes.set_ylabel("% of choices")
    axes.legend(frameon=False)
    return figure


def who_answers_whom(shares: Mapping[str, Float[Array, "T T"]]) -> Figure:
    """How much of the answer to token s (column) arrives at token t (row), one panel per way to combine."""
    figure, panels = grid(len(shares), len(shares), height=3.6, title="Whose answer does a token get?")
    image = None
    for axes, (name, share) in zip(panels, shares.items(), strict=True):
        image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1)
        for t, s in np.argwhere(share > 0.005):
            colour = "black" if share[t, s] > 0.55 else "white"
            axes.text(s, t, f"{share[t, s]:.1f}".lstrip("0"), ha="center", va="center", color=colour, fontsize=9)
        axes.set_title(name, fontsize=11)
        axes.set_xlabel("the answer to token")
        axes.set_xticks(range(len(share)))
        axes.set_yticks(range(len(share)))
    panels[0].set_ylabel("arrives at token")
    assert image is not None
    figure.colorbar(image, ax=panels, label="gate weight", shrink=0.75, fraction=0.03, pad=0.015)
    return figure


def busiest_expert(share: Mapping[str, Float[Array, " N"]], num_experts: int) -> Figure:
    """The load of the busiest expert over N steps, in multiples of the fair share."""
    figure, (axes,) = grid(1, 1, height=3.6, title="Load of the busiest expert")
    for i, (name, values) in enumerate(share.items()):
        _line(axes, np.arange(len(values)), num_experts * smoothed(values), i, name)
    axes.axhline(1, color=GREY, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("multiples of the fair share")
    axes.set_ylim(0)
    axes.legend(frameon=False, title="balance loss", loc="lower right", ncols=len(share))
    return figure


def flips_by_gap(gap: Float[Array, " N"], flipped: Mapping[str, Float[Array, " N"]]) -> Figure:
    """The fraction of tokens whose choice differs from exact arithmetic, against the gap at the boundary."""
    figure, (axes,) = grid(1, 1, height=3.6, title="Tokens whose experts differ from exact arithmetic")
    for i, (name, fraction) in enumerate(flipped.items()):
        _line(axes, gap, 100 * fraction, i, name)
    axes.set_xscale("log")
    axes.set_xlabel("gap between the last chosen and the first rejected logit")
    axes.set_ylabel("% of the tokens with this gap")
    axes.legend(frameon=False)
    return figure


def _line(axes: Axes, x: Any, y: Any, i: int, name: str) -> None:
    """The i-th line, with its own markers, thinner than those before it so that none hides another."""
    every, width = max(1, len(x) // 12), max(1.2, 3.4 - 1.1 * i)
    axes.plot(x, y, **STYLES[i], markevery=(i * every // 3, every), markersize=3 + width, linewidth=width, label=name)
    axes.spines[["top", "right"]].set_visible(False)
