"""Figures as PNG files, and in notebooks."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ..training.files import commit, temporary

if TYPE_CHECKING:
    from IPython.display import Image


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG in place of whatever ``path`` holds: old or new after a crash, never half."""
    figure.savefig(temporary(path), format="png")
    commit([path])


def show(figure: Figure, alt: str) -> "Image":
    """The figure as the output of a notebook's cell, with a text for those who cannot see it.

    Args:
        figure: what to draw.
        alt: one or two sentences that say what the figure shows.
    """
    from IPython.display import Image  # comes with jupyter; the library itself does without

    png = BytesIO()
    figure.savefig(png, format="png")
    return Image(data=png.getvalue(), format="png", width=800, alt=alt)
