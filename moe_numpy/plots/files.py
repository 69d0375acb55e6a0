"""Figures as PNG files, and in notebooks."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from PIL import Image as Picture

from ..files import write_atomically

if TYPE_CHECKING:
    from IPython.display import Image

_COLOURS = 256


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG in place of whatever ``path`` holds: old or new after a crash, never half."""
    png = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        figure.savefig(png, format="png")
    write_atomically({path: png.getvalue()})


def show(figure: Figure, alt: str) -> "Image":
    """The figure as the output of a notebook's cell, with a text for those who cannot see it.

    The PNG has at most 256 colours: a third of the bytes, and no difference that one sees.

    Args:
        figure: what to draw.
        alt: one or two sentences that say what the figure shows; line breaks in it count as spaces.
    """
    from IPython.display import Image  # comes with jupyter; the library itself does without

    drawn, png = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png")
    picture = Picture.open(drawn).convert("RGB")
    picture.quantize(_COLOURS, dither=Picture.Dither.NONE).save(png, format="png", optimize=True)
    return Image(data=png.getvalue(), format="png", width=800, alt=" ".join(alt.split()))
