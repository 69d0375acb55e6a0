"""Slides of the figures: one a figure, a column for each notebook, with reveal.js."""

import html
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from figures import Shown

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>moe_numpy: the figures as slides</title>
<link rel="icon" href="../_static/favicon.svg">
<link rel="stylesheet" href="reveal/reveal.css">
<link rel="stylesheet" href="reveal/white.css">
<link rel="stylesheet" href="slides.css">
</head>
<body>
<main class="reveal"><div class="slides">
{slides}
</div></main>
<script src="reveal/reveal.js"></script>
<script src="start.js"></script>
</body>
</html>
"""
_CSS = """:root { --r-main-font: system-ui, sans-serif; --r-heading-font: system-ui, sans-serif;
  --r-heading-text-transform: none;
  --r-main-font-size: 28px; --r-heading1-size: 1.8em; --r-heading2-size: 1.1em; --r-link-color: #0b57a4; }
.reveal .slides section img { max-width: 100%; max-height: 500px; margin: 12px auto; background: #fff; }
.reveal .slides section p.alt { font-size: .55em; line-height: 1.35; color: #333; margin: 0 auto; max-width: 60em; }
"""
_START = """Reveal.initialize({ hash: true, slideNumber: true, center: false, width: 1200, height: 760 });
"""


def write(figures: Sequence[Shown], reveal: Path, folder: Path) -> None:
    """Write ``index.html`` and what it needs to a folder beside ``figures/``."""
    (folder / "reveal").mkdir(parents=True)
    for name in ("reveal.js", "reveal.css", "theme/white.css"):
        shutil.copy(reveal / name, folder / "reveal")
    columns = [list(shown) for _, shown in groupby(figures, lambda figure: figure.file[:2])]
    title = (
        f"<section><h1>Mixture of Experts, in pictures</h1><p>{len(figures)} figures of {len(columns)} notebooks. "
        "Right: the next notebook. Down: its figures. Esc: overview.</p>"
        '<p><a href="../index.html">Back to the site</a></p></section>'
    )
    slides = "\n".join([title, *map(_column, columns)])
    (folder / "index.html").write_text(_PAGE.format(slides=slides), encoding="utf-8")
    (folder / "slides.css").write_text(_CSS, encoding="utf-8")
    (folder / "start.js").write_text(_START, encoding="utf-8")


def _column(shown: Sequence[Shown]) -> str:
    head = f"<section><h1>{_words(shown[0].chapter)}</h1><p>{len(shown)} figures below</p></section>"
    return "\n".join(["<section>", head, *map(_slide, shown), "</section>"])


def _slide(figure: Shown) -> str:
    alt = html.escape(figure.alt)
    return (
        f"<section><h2>{_words(figure.section or figure.chapter)}</h2>"
        f'<img src="../figures/{figure.file}" alt="{alt}">'
        f'<p class="alt">{alt}</p></section>'
    )


def _words(heading: str) -> str:
    """A heading without Markdown's marks."""
    return html.escape(heading.replace("`", "").replace("*", ""))
