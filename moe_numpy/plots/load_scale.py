"""The load of experts as colours: white is the fair share, purple below it, orange above, on a logarithmic scale."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ..typing import Array, Float
from .style import smoothed

_TINY = 1e-3  # of the fair share: the place of an empty expert on a logarithmic scale


def draw_load(axes: Axes, load: Float[Array, "N E"], first: float = 1, last: float | None = None) -> AxesImage:
    """One row per expert, one column per step; ``load`` has each expert's share of the assignments at N steps.

    Args:
        axes: where to draw.
        load: each row sums to 1.
        first: the number of the first step.
        last: the number of the last; N if not given.
    """
    steps, num_experts = load.shape
    relative = np.apply_along_axis(smoothed, 0, load) * num_experts
    return axes.imshow(
        np.log2(np.maximum(relative, _TINY)).T,
        aspect="auto",
        cmap="PuOr_r",
        vmin=-3,
        vmax=3,
        extent=(first - 0.5, (steps if last is None else last) + 0.5, num_experts - 0.5, -0.5),
        interpolation="none",
    )


def load_bar(figure: Figure, image: AxesImage, panels: Sequence[Axes]) -> None:
    """The scale of colours, in multiples of the fair share."""
    bar = figure.colorbar(image, ax=list(panels), extend="both", ticks=range(-3, 4), pad=0.015)
    bar.ax.set_yticklabels(["⅛ or less", "¼", "½", "fair share", "2 ×", "4 ×", "8 ×"])
