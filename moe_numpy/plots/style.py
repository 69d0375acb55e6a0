"""What the figures share: size, colours, panels, ticks.

Figures are built without pyplot, so that nothing is global, and are 1200 pixels wide. Colour-blind readers
can tell the colours apart (Okabe, Ito 2008; cividis; purple, orange); no meaning rests on colour alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..typing import Array, Float

_WIDTH = 10.0  # inches
_DPI = 120
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-", "marker": "o"},
    {"color": ORANGE, "linestyle": "--", "marker": "s"},
    {"color": GREEN, "linestyle": "-.", "marker": "^"},
    {"color": PINK, "linestyle": ":", "marker": "D"},
)
MAX_NUMBERED = 16  # experts beside each other with a number in each cell


def grid(count: int, columns: int, *, height: float, title: str) -> tuple[Figure, list[Axes]]:
    """A figure and ``count`` panels in reading order."""
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    panels = figure.subplots(math.ceil(count / columns), columns, squeeze=False).reshape(-1)
    for unused in panels[count:]:
        unused.remove()
    return figure, list(panels[:count])


def columns_for(panels: int) -> int:
    """How many panels stand beside each other."""
    return 1 if panels == 1 else 2


def layer_numbers(layers: Sequence[int] | None, count: int) -> Sequence[int]:
    """The given layer numbers, or 0, 1, ..."""
    return range(count) if layers is None else layers


def expert_ticks(axes: Axes, num_experts: int) -> None:
    """Number the experts along the horizontal axis: at most 16 of them, 10 if numbers have three digits."""
    axes.set_xticks(some(num_experts, MAX_NUMBERED if num_experts <= 100 else 10))


def literal(text: str) -> str:
    """A name on a figure as it is: matplotlib reads what is between two $ as mathematics, and breaks at a newline."""
    return "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")


def some(count: int, at_most: int) -> range:
    """Every n-th of ``count`` labels, so that they do not run into each other."""
    return range(0, count, math.ceil(count / at_most))


def smoothed(values: Float[Array, " N"]) -> Float[Array, " N"]:
    """Centred mean over a twentieth of the run; narrower at both ends, so that nothing is made up."""
    reach = len(values) // 40
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    i = np.arange(len(values))
    low, high = np.maximum(i - reach, 0), np.minimum(i + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)
