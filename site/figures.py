"""The figures of the notebooks: files of their own, with the texts that say what they show."""

import base64
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_EMBEDDED = re.compile(r'<img src="data:image/([^;"]+);base64,([^"]*)" alt="([^"]*)"')
_SUFFIXES = {"svg+xml": "svg", "png": "png"}


@dataclass(frozen=True)
class Shown:
    """A figure of a notebook: its file's name, its alternative text, the headings above it and the words before it."""

    file: str
    alt: str
    chapter: str
    section: str


def extract(notebook: Any, number: str, folder: Path) -> list[Shown]:
    """Write the figures of a notebook to a folder, and let its outputs show those files, ``../figures/NN-i.svg``."""
    shown: list[Shown] = []
    chapter = section = ""
    folder.mkdir(parents=True, exist_ok=True)

    def keep(kind: str, content: str, alt: str) -> str:
        file = f"{number}-{len(shown) + 1}.{_SUFFIXES[kind]}"
        (folder / file).write_bytes(base64.b64decode(content))
        shown.append(Shown(file, html.unescape(alt), chapter, section))
        return f'<img loading="lazy" src="../figures/{file}" alt="{alt}"'

    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for level, words in re.findall(r"^(#+) (.*)", "".join(cell["source"]), re.MULTILINE):
                chapter, section = (words, "") if level == "#" else (chapter, words)
            continue
        for data, metadata in _outputs(cell):
            if "<img " in (text := "".join(data.get("text/html", ""))):
                data["text/html"] = _EMBEDDED.sub(lambda match: keep(*match.groups()), text)
            elif "image/png" in data:
                alt = html.escape(metadata.get("image/png", {}).get("alt", ""))
                data["text/html"] = keep("png", "".join(data["image/png"]), alt) + ' width="800">'
            else:
                continue
            data.pop("image/png", None)
            data.pop("image/svg+xml", None)
    return shown


def _outputs(cell: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for output in cell.get("outputs", []):
        if "data" in output:
            yield output["data"], output.get("metadata", {})
