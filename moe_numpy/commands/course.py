"""``python -m moe_numpy course``: the notebooks, in a folder of the learner's."""

import hashlib
import json as json_module
import os
import posixpath
import re
import shlex
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..files import read_json, read_regular, write_atomically, write_json_atomically
from .output import JsonOption, console_for, one_line, print_files, print_json, print_title, refusals

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "course"  # the build copies notebooks/ and docs/ there: see setup.py
_RECORD = ".course.json"  # in the learner's folder: the digest of each file as it was copied
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_PAGES = ("notebooks/*.ipynb", "docs/*.md", "docs/figures/*.png")
# What notebooks import or read:
_BESIDE = ("tests/moe/mistakes.py", "benchmarks/figure.py", "benchmarks/results/*.json")


@dataclass
class _Copied:
    """The files of a copy: new ones, newer ones in place of unedited ones, those kept because they were edited, and
    those that were there already."""

    written: list[Path] = field(default_factory=list)
    updated: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    same: list[Path] = field(default_factory=list)


def course(
    folder: Annotated[Path, typer.Argument(help="Where to put them; made if it is missing.")] = Path("moe_course"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that differ, your changes included.")] = False,
    json: JsonOption = False,
) -> None:
    """Copy the notebooks, and the pages they link, to a folder of yours. What you changed there stays.

    After an upgrade of the package, the same command replaces the files that you did not change.
    """
    with refusals():
        copied = _copy(folder, force)
    if json:
        names = {how: [str(path) for path in paths] for how, paths in vars(copied).items()}
        print_json({"folder": str(folder), **names})
        return
    _print(console_for(json), folder, copied)


def _print(console: Console, folder: Path, copied: _Copied) -> None:
    newer = f"; {len(copied.updated)} replaced by newer ones" * bool(copied.updated)
    already = f"; {len(copied.same)} were there already" * bool(copied.same)
    console.print(Text(one_line(f"{len(copied.written)} files written to {folder}{newer}{already}")), soft_wrap=True)
    print_files(console, "Kept, because they differ from the course's; --force overwrites them", copied.kept)
    print_title(console, "Next")
    console.print(Text(one_line(f"  jupyter lab {shlex.quote(str(folder / 'notebooks'))}")), soft_wrap=True)
    console.print(Text("  without jupyter: python -m pip install jupyter"), soft_wrap=True)


def _copy(folder: Path, force: bool) -> _Copied:
    """Copy, and remember the digest of each file: a file that still has it was not edited."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and the course needs a folder")
    record, copied = folder / _RECORD, _Copied()
    digests = read_json(record, dict[str, str]) if os.path.lexists(record) else {}
    before = dict(digests)
    try:
        for name, content in files_of_the_course():
            path = folder / name
            there = read_regular(path) if path.exists() else None
            if there == content:
                copied.same.append(path)
            elif there is not None and not force and digests.get(name) != _digest(there):
                copied.kept.append(path)
                continue
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically({path: content})
                (copied.written if there is None or force else copied.updated).append(path)
            digests[name] = _digest(content)
    finally:  # of a copy that was stopped too
        if digests != before:
            write_json_atomically(record, digests)
    return copied


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files_of_the_course() -> Iterator[tuple[str, bytes]]:
    """Each file's place in the learner's folder, and what it holds.

    The notebooks, docs/ and what notebooks import keep their places, so that links and imports stay valid. Sources of
    the package that they link come along below sources/. A link to anything else becomes its text.
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
    for path in sorted(path for shape in _BESIDE for path in home.glob(shape)):
        yield path.relative_to(home).as_posix(), path.read_bytes()


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
