"""Figures of training that goes on from a dense model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..typing import Array, Float
from .style import GREY, STYLES, columns_for, grid

_LAST = {"color": "#56B4E9", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"}
DENSE_BEFORE = "dense, before"


@dataclass(frozen=True, eq=False)
class Continued:
    """One run: bits per byte of held-out text by the FLOPs that training has cost so far."""

    flops: Float[Array, " N"]
    bits: Float[Array, " N"]


def continued_training(
    groups: Mapping[str, Sequence[Continued]],
    *,
    title: str = "The same compute from a dense model on, and from scratch",
) -> Figure:
    """Held-out loss against compute, the mean of the seeds and their range; on the right the end of each seed.

    With one seed per model the ends stand at the lines, and there is nothing on the right.

    Args:
        groups: the runs of each model, one a seed, measured after equally many FLOPs each; "dense, before" is drawn in
            grey and has no end.
        title: of the figure.
    """
    count = 2 if any(len(runs) > 1 for runs in groups.values()) else 1
    figure, panels = grid(count, columns_for(count), height=5.0, title=title)
    styles: dict[str, dict[str, Any]] = dict(
        zip([name for name in groups if name != DENSE_BEFORE], [*STYLES, _LAST], strict=False)
    )
    styles[DENSE_BEFORE] = {"color": GREY, "linestyle": "-", "marker": ""}
    _curves(panels[0], groups, styles)
    ends = {name: runs for name, runs in groups.items() if name != DENSE_BEFORE}
    if count == 2:
        _ends(panels[1], ends, styles)
    else:
        for name, (run,) in ends.items():
            panels[0].annotate(
                f"{run.bits[-1]:.3f}", (run.flops[-1] / 1e12, run.bits[-1]), xytext=(8, 0), textcoords="offset points",
                va="center", color=styles[name]["color"], fontweight="bold",
            )  # fmt: skip
        panels[0].margins(x=0.1)
    return figure


def _curves(axes: Axes, groups: Mapping[str, Sequence[Continued]], styles: Mapping[str, Mapping[str, Any]]) -> None:
    lows = []
    for name, runs in groups.items():
        style = styles[name]
        flops, bits = runs[0].flops / 1e12, np.stack([run.bits for run in runs])
        axes.fill_between(flops, bits.min(axis=0), bits.max(axis=0), color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(flops, bits.mean(axis=0), **style, linewidth=1.8, markersize=4.5, label=name)
        lows.append(bits.min())
    begun = [run.bits[-1] for run in groups.get(DENSE_BEFORE, ())]
    highest = max(run.bits.max() for runs in groups.values() for run in runs)
    axes.set_ylim(min(lows) - 0.05, float(np.mean(begun)) + 0.6 if begun else highest + 0.05)
    axes.set_xlabel("TFLOPs of training, from random weights on")
    axes.set_ylabel("bits per byte of held-out text")
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.25)


def _ends(axes: Axes, ends: Mapping[str, Sequence[Continued]], styles: Mapping[str, Mapping[str, Any]]) -> None:
    for place, (name, runs) in enumerate(ends.items()):
        style, values = styles[name], np.array([run.bits[-1] for run in runs])
        axes.plot(values, np.full(len(values), place), linestyle="none", marker=style["marker"], color=style["color"],
                  markersize=7, alpha=0.6, markeredgecolor="white")  # fmt: skip
        axes.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=style["color"], linewidth=2)
        axes.annotate(f"{values.mean():.3f}", (values.mean(), place - 0.34), ha="center", va="bottom", fontsize=9)
    axes.set_yticks(range(len(ends)), list(ends), fontsize=9)
    axes.set_ylim(len(ends) - 0.4, -0.7)
    axes.set_xlabel("bits per byte at the end: seeds, and their mean")
    axes.grid(alpha=0.25, axis="x")
    axes.margins(x=0.12)
