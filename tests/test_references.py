"""docs/references.bib holds every paper that the code, the notebooks and the pages name."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).resolve().parents[1]
BIBLIOGRAPHY = PROJECT / "docs" / "references.bib"
_ENTRY = re.compile(r"^@(\w+)\{(\w+),\n(.*?)\n\}$", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^  (\w+) = \{(.*)\},?$", re.MULTILINE)
_ARXIV = re.compile(r"(?:arXiv[: ]+|arxiv\.org/\w+/)(\d{4}\.\d{4,5})", re.IGNORECASE)
_BY_NAME = re.compile(r"([A-Z][\w'-]+)\s+et\s+al\.,?\s+\(?((?:19|20)\d\d)\b")


class Paper(NamedTuple):
    key: str
    fields: dict[str, str]

    @property
    def first_author(self) -> str:
        """The surname."""
        return self.fields["author"].split(" and ")[0].split(",")[0].strip("{}")


PAPERS = [Paper(key, dict(_FIELD.findall(body))) for _, key, body in _ENTRY.findall(BIBLIOGRAPHY.read_text("utf-8"))]


def texts():
    """What may cite: the name of each file, and its text."""
    for room in ("moe_numpy", "exercises", "benchmarks", "parity"):
        for path in sorted((PROJECT / room).rglob("*.py")):
            yield str(path.relative_to(PROJECT)), path.read_text("utf-8")
    for path in sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")]):
        yield path.name, path.read_text("utf-8")
    for path in sorted((PROJECT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        yield path.name, "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def uncited(pattern, known):
    """What the texts name and ``known`` does not hold, with the files."""
    found = {}
    for name, text in texts():
        for named in pattern.findall(text):
            if named not in known:
                found.setdefault(named, set()).add(name)
    return found


def test_every_entry_was_read():
    assert len(PAPERS) == BIBLIOGRAPHY.read_text("utf-8").count("\n@") > 100


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.key)
def test_an_entry_says_who_what_when(paper):
    assert paper.fields.keys() >= {"author", "title", "year"}
    assert re.fullmatch(rf"[a-z]+{paper.fields['year']}[a-z0-9]*", paper.key)


@pytest.mark.parametrize("field", ["key", "eprint", "doi", "url", "title"])
def test_no_paper_is_there_twice(field):
    values = [paper.key if field == "key" else paper.fields.get(field) for paper in PAPERS]
    assert [value for value, count in Counter(values).items() if value and count > 1] == []


def test_every_arxiv_number_has_an_entry():
    assert uncited(_ARXIV, {paper.fields.get("eprint") for paper in PAPERS}) == {}


def test_every_first_author_with_a_year_has_an_entry():
    assert uncited(_BY_NAME, {(paper.first_author, paper.fields["year"]) for paper in PAPERS}) == {}
