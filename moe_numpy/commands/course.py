"""``python -m moe_numpy course``: the notebooks, in a folder of the learner's."""

import json as json_module
import posixpath
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..files import write_atomically
from .output import JsonOption, console_for, print_json, print_title, refusals

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "course"  # the build copies notebooks/ and docs/ there: see setup.py
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_PAGES = ("notebooks/*.ipynb", "docs/*.md", "docs/figures/*.png")


def course(
    folder: Annotated[Path, typer.Argument(help="Where to put them; made if it is missing.")] = Path("moe_course"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that differ, your changes included.")] = False,
    json: JsonOption = False,
) -> None:
    """Copy the notebooks, and the pages they link, to a folder of yours. What you changed there stays."""
    with refusals():
        written, kept, same = _copy(folder, force)
    if json:
        names = {"written": written, "kept": kept, "same": same}
        print_json({"folder": str(folder), **{how: [str(path) for path in paths] for how, paths in names.items()}})
        return
    _print(console_for(json), folder, written, kept, same)


def _print(console: Console, folder: Path, written: list[Path], kept: list[Path], same: list[Path]) -> None:
    already = f"; {len(same)} were there already" * bool(same)
    console.print(Text(f"{len(written)} files written to {folder}{already}"), soft_wrap=True)
    if kept:
        print_title(console, "Kept, because they differ from the course's; --force overwrites them")
        for path in kept:
            console.print(Text(f"  {path}"), soft_wrap=True)
    print_title(console, "Next")
    console.print(Text(f"  jupyter lab {folder / 'notebooks'}"), soft_wrap=True)
    console.print(Text("  without jupyter: python -m pip install jupyter"), soft_wrap=True)


def _copy(folder: Path, force: bool) -> tuple[list[Path], list[Path], list[Path]]:
    """The files written, those kept because they differ, and those that are the same already."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and the course needs a folder")
    written, kept, same = [], [], []
    for name, content in files_of_the_course():
        path = folder / name
        if path.exists() and path.read_bytes() == content:
            same.append(path)
        elif path.exists() and not force:
            kept.append(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically({path: content})
            written.append(path)
    return written, kept, same


def files_of_the_course() -> Iterator[tuple[str, bytes]]:
    """Each file's place in the learner's folder, and what it holds.

    The notebooks and docs/ keep their places, so that links among them stay valid. Sources of the package that they
    link come along below sources/. A link to anything else becomes its text.
    """
    home = _home()
    pages = sorted(path.relative_to(home).as_posix() for shape in _PAGES for path in home.glob(shape))
    sources: set[str] = set()
    for page in pages:
        content = (home / page).read_bytes()
        if not page.endswith(".png"):
            links = _Links(page, set(pages))
            content = (_in_notebook if page.endswith(".ipynb") else _in_text)(links, content)
            sources |= links.sources
        yield page, content
    for name in sorted(sources):
        yield f"sources/{name}", (_PACKAGE.parent / name).read_bytes()


def _home() -> Path:
    """The folder with notebooks/ and docs/: a checkout's own, so that there is no second copy, or the package's."""
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "notebooks").is_dir():
        return checkout
    if not _INSTALLED.is_dir():
        raise ValueError(f"{_INSTALLED} is missing: this moe_numpy was installed without the course")
    return _INSTALLED


class _Links:
    """The links of one page, rewritten for the learner's folder; ``sources`` are the package's files it needs."""

    def __init__(self, page: str, places: Container[str]):
        self.page, self.places, self.sources = page, places, set[str]()

    def rewrite(self, text: str) -> str:
        return _LINK.sub(lambda match: self._rewritten(*match.groups()), text)

    def _rewritten(self, picture: str, text: str, target: str) -> str:
        link = f"{picture}[{text}]({target})"
        file, hash_mark, part = target.partition("#")
        if not file or ":" in file:
            return link
        above = posixpath.dirname(self.page)
        name = posixpath.normpath(posixpath.join(above, file))
        if name in self.places:
            return link
        if name.startswith("moe_numpy/") and (_PACKAGE.parent / name).is_file():
            self.sources.add(name)
            return f"{picture}[{text}]({posixpath.relpath(f'sources/{name}', above)}{hash_mark}{part})"
        return text


def _in_text(links: _Links, content: bytes) -> bytes:
    return links.rewrite(content.decode()).encode()


def _in_notebook(links: _Links, content: bytes) -> bytes:
    notebook = json_module.loads(content)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            whole = links.rewrite("".join(cell["source"]))
            cell["source"] = whole.splitlines(keepends=True)
    return (json_module.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()
