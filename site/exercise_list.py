"""The page that lists all exercises, made from their catalogue."""

import re
from pathlib import Path

from exercises.catalog import all_exercises

_ASKED = re.compile(r'exercises\.(?:check|open)\(\\"(\d\d)\\"\)')
_LEVELS = {1: "easy", 2: "medium", 3: "hard"}


def page(notebooks: Path) -> str:
    """Markdown: a table with what each exercise teaches and the notebook that it belongs to."""
    where = {
        number: f"[{path.stem[:2]}](../notebooks/{path.name})"
        for path in sorted(notebooks.glob("*.ipynb"), reverse=True)
        for number in _ASKED.findall(path.read_text(encoding="utf-8"))
    }
    found = all_exercises()
    rows = [
        f"| {e.label} | **{e.title}**<br>{_plain(e.teaches)} | {_LEVELS[e.difficulty]} | {e.minutes} "
        f"| {', '.join(f'{n:02}' for n in e.needs)} | {where.get(e.label, '')} |"
        for e in found
    ]
    minutes = sum(e.minutes for e in found)
    return "\n".join(
        [
            "# All exercises",
            "",
            f"{len(found)} exercises, about {minutes / 60:.0f} hours together. [Exercises](README.md) says "
            "how they work. *After* names the exercises whose ideas are needed; *in* is the notebook to which it "
            "belongs.",
            "",
            "| | | level | minutes | after | in |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _plain(text: str) -> str:
    return re.sub(r"([|*_\[\]$])", r"\\\1", text)
