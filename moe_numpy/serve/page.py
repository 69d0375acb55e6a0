"""The microscope's page: that of a server, and as one file that needs none, with its modules and what it shows."""

import json
import re
from pathlib import Path
from typing import Any

STATIC = Path(__file__).with_name("static")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def live_page() -> str:
    """The page of a server. Its style is part of it, so that nothing has to arrive before it is painted."""
    style = (STATIC / "microscope.css").read_text("utf-8")
    page = (STATIC / "index.html").read_text("utf-8")
    return _replaced(page, '<link rel="stylesheet" href="microscope.css">', f"<style>\n{style}</style>")


def saved_page(content: dict[str, Any] | None) -> str:
    """A page of ``{"model": ..., "texts": [{"name": ..., "prompt_tokens": ..., "tokens": [...]}, ...]}``.

    Args:
        content: as :func:`moe_numpy.serve.routed.described` and :func:`~moe_numpy.serve.routed.read_text` make it; None
            leaves the place open.
    """
    told = json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", r"\u003c")
    data = f'<script type="application/json" id="saved">{told}</script>'
    script = f'<script type="module">\n{joined("saved.js")}</script>'
    page = _replaced(live_page(), '<html lang="en">', '<html lang="en" data-saved>')
    return _replaced(page, '<script type="module" src="live.js"></script>', f"{data}\n{script}")


def joined(name: str) -> str:
    """A module and all that it imports as one; names are unique among the modules."""
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        if name not in parts:
            text = (STATIC / name).read_text("utf-8")
            for imported in _IMPORT.findall(text):
                add(imported)
            parts[name] = f"// {name}\n" + _EXPORT.sub("", _IMPORT.sub("", text))

    add(name)
    return "\n".join(parts.values())


def _replaced(page: str, old: str, new: str) -> str:
    before, after = page.split(old)
    return before + new + after
