"""Figures and tables as outputs of a notebook's cell."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from typing import Any

from matplotlib.figure import Figure
from PIL import Image as Picture

from .small_svg import small_svg

_WIDTH = 800  # pixels on a page, whatever the density of the screen
_MOST_SVG = 48 * 1024  # bytes; above it are heat maps and clouds of points, and a PNG is smaller


@dataclass(frozen=True, repr=False)
class Shown:
    """What a front end may choose from: representations by their MIME type, and the metadata of some of them.

    JupyterLab, nbconvert, VS Code and MyST-NB take ``text/html``; a console takes ``text/plain``; what can show
    neither, such as the way to PDF, takes ``image/png``.
    """

    data: dict[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.data["text/plain"]

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, Any]]:
        return self.data, self.metadata


def show(figure: Figure, alt: str, *, caption: str = "") -> Shown:
    """The figure as the output of a notebook's cell, with a text for those who cannot see it.

    It is an SVG, exact at any density of the screen, or a PNG of 1.5 times the page's pixels where the SVG would be
    large. The same figure gives the same bytes.

    Args:
        figure: what to draw.
        alt: one or two sentences that say what the figure shows; line breaks in it count as spaces.
        caption: plain text that stands below the figure, for everybody.
    """
    alt, caption = " ".join(alt.split()), " ".join(caption.split())
    svg = small_svg(figure).encode()
    kind, image = ("svg+xml", svg) if len(svg) <= _MOST_SVG else ("png", _png(figure, 3 * _WIDTH // 2, colours=256))
    picture = (
        f'<img src="data:image/{kind};base64,{_text(image)}" alt="{escape(alt)}" width="{_WIDTH}" '
        'style="max-width:100%;height:auto">'
    )
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Shown(
        {
            "text/html": f'<figure style="margin:0">{picture}{below}</figure>',
            "image/png": _text(_png(figure, 640, colours=32)),
            "text/plain": "\n".join(text for text in (alt, caption) if text),
        },
        {"image/png": {"alt": alt}},
    )


def table(rows: Sequence[Sequence[object]], columns: Sequence[str], *, caption: str = "") -> Shown:
    """A table that scrolls sideways where the page is narrow, and never breaks a cell.

    Args:
        rows: the cells, shown by ``str``; a column of numbers, or of numbers with a unit, is set to the right.
        columns: their headings.
        caption: plain text that stands above the table.

    Raises:
        ValueError: a row with more or fewer cells than there are headings.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    for i, row in enumerate(cells):
        if len(row) != len(columns):
            raise ValueError(f"row {i} has {len(row)} cells; there are {len(columns)} columns")
    right = [all(row[j][:1].isdigit() or row[j][:1] in "-−+" for row in cells) for j in range(len(columns))]
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    head = "".join(_cell("th", text, right[j]) for j, text in enumerate(columns))
    body = "".join(f"<tr>{''.join(_cell('td', text, right[j]) for j, text in enumerate(row))}</tr>" for row in cells)
    html = (
        f'<div style="overflow-x:auto" tabindex="0"><table>{above}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    return Shown({"text/html": html, "text/plain": _plain(cells, columns, right, caption)})


def _png(figure: Figure, width: int, colours: int) -> bytes:
    """A PNG with few colours: a third of the bytes, and no difference that one sees.

    The colours cover the range that is there, so that a thin line keeps its own; a median cut gives them to the many
    shades of the text.
    """
    drawn, png = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", dpi=width / figure.get_figwidth())
    picture = Picture.open(drawn).convert("RGB")
    few = picture.quantize(colours, Picture.Quantize.MAXCOVERAGE, dither=Picture.Dither.NONE)
    few.save(png, format="png", optimize=True)
    return png.getvalue()


def _text(image: bytes) -> str:
    return b64encode(image).decode("ascii")


def _cell(tag: str, text: str, right: bool) -> str:
    side = "right" if right else "left"  # a style of the table alone would yield to JupyterLab's for its cells
    return f'<{tag} style="text-align:{side};white-space:nowrap">{escape(text)}</{tag}>'


def _plain(cells: list[list[str]], columns: Sequence[str], right: list[bool], caption: str) -> str:
    lines = [list(columns), *cells]
    widths = [max(len(line[j]) for line in lines) for j in range(len(columns))]
    formats = [f"{'>' if to_the_right else '<'}{width}" for to_the_right, width in zip(right, widths, strict=True)]
    aligned = ("  ".join(map(format, line, formats)).rstrip() for line in lines)
    return "\n".join([*([caption] if caption else []), *aligned])
