"""Figures of training that goes on from a dense model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..typing import Array, Float
from .style import GREY, STYLES, grid

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

    Args:
        groups: the runs of each model, one a seed, measured after equally many FLOPs each; "dense, before" is drawn in
            grey and has no end.
        title: of the figure.
    """
    figure, (left, right) = grid(2, 2, height=5.0, title=title)
    styles: dict[str, dict[str, Any]] = dict(
        zip([name for name in groups if name != DENSE_BEFORE], [*STYLES, _LAST], strict=False)
    )
    styles[DENSE_BEFORE] = {"color": GREY, "linestyle": "-", "marker": ""}
    lows = []
    for name, runs in groups.items():
        style = styles[name]
        flops, bits = runs[0].flops / 1e12, np.stack([run.bits for run in runs])
        left.fill_between(flops, bits.min(axis=0), bits.max(axis=0), color=style["color"], alpha=0.15, linewidth=0)
        left.plot(flops, bits.mean(axis=0), **style, linewidth=1.8, markersize=4.5, label=name)
        lows.append(bits.min())
    ends = [(name, np.array([run.bits[-1] for run in runs])) for name, runs in groups.items() if name != DENSE_BEFORE]
    begun = [bits for name, runs in groups.items() if name == DENSE_BEFORE for bits in (run.bits[-1] for run in runs)]
    top = (
        float(np.mean(begun)) + 0.6 if begun else max(run.bits.max() for runs in groups.values() for run in runs) + 0.05
    )
    left.set_ylim(min(lows) - 0.05, top)
    left.set_xlabel("TFLOPs of training, from random weights on")
    left.set_ylabel("bits per byte of held-out text")
    left.legend(frameon=False, fontsize=9)
    left.grid(alpha=0.25)
    for place, (name, values) in enumerate(ends):
        style = styles[name]
        right.plot(values, np.full(len(values), place), linestyle="none", marker=style["marker"], color=style["color"],
                   markersize=7, alpha=0.6, markeredgecolor="white")  # fmt: skip
        right.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=style["color"], linewidth=2)
        right.annotate(f"{values.mean():.3f}", (values.mean(), place - 0.34), ha="center", va="bottom", fontsize=9)
    right.set_yticks(range(len(ends)), [name for name, _ in ends], fontsize=9)
    right.set_ylim(len(ends) - 0.4, -0.7)
    right.set_xlabel("bits per byte at the end: seeds, and their mean")
    right.grid(alpha=0.25, axis="x")
    right.margins(x=0.12)
    return figure
