"""The microscope's page as one file that needs no server: its style, its modules and what it shows."""

import json
import re
from pathlib import Path
from typing import Any

STATIC = Path(__file__).with_name("static")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def saved_page(content: dict[str, Any] | None) -> str:
    """A page of ``{"model": ..., "texts": [{"name": ..., "prompt_tokens": ..., "tokens": [...]}, ...]}``.

    Args:
        content: as :func:`moe_numpy.serve.routed.described` and :func:`~moe_numpy.serve.routed.read_text` make it; None
            leaves the place open.
    """
    page = (STATIC / "index.html").read_text()
    told = json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", r"\u003c")
    scripts = f'<script type="application/json" id="saved">{told}</script>\n<script type="module">\n{joined("saved.js")}</script>'
    for old, new in (
        ('<html lang="en">', '<html lang="en" data-saved>'),
        (
            '<link rel="stylesheet" href="microscope.css">',
            f"<style>\n{(STATIC / 'microscope.css').read_text()}</style>",
        ),
        ('<script type="module" src="live.js"></script>', scripts),
    ):
        before, after = page.split(old)
        page = before + new + after
    return page


def joined(name: str) -> str:
    """A module and all that it imports as one; names are unique among the modules."""
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        if name not in parts:
            text = (STATIC / name).read_text()
            for imported in _IMPORT.findall(text):
                add(imported)
            parts[name] = f"// {name}\n" + _EXPORT.sub("", _IMPORT.sub("", text))

    add(name)
    return "\n".join(parts.values())
