"""Figures as PNG files."""

import warnings
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from ..files import write_atomically


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG in place of whatever ``path`` holds: old or new after a crash, never half."""
    png = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        figure.savefig(png, format="png")
    write_atomically({path: png.getvalue()})
