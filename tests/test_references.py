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
_BULLET = re.compile(r"- (?P<who>\S.*) (?P<year>\d{4}), \[\*(?P<title>[^*]+)\*\]\((?P<address>[^)\s]+)\): \S.*\.")
_BY_NAME = re.compile(r"([A-Z][\w'-]+)\s+et\s+al\.,?\s+\(?((?:19|20)\d\d)\b")


class Paper(NamedTuple):
    key: str
    fields: dict[str, str]

    @property
    def first_author(self) -> str:
        """The surname."""
        return self.fields["author"].split(" and ")[0].split(",")[0].strip("{}")

    @property
    def address(self) -> str | None:
        """Where it can be read."""
        for field, place in (("eprint", "https://arxiv.org/abs/"), ("doi", "https://doi.org/"), ("url", "")):
            if field in self.fields:
                return place + self.fields[field]
        return None

    def is_called(self, title: str) -> bool:
        """By its whole title, or by what stands before the subtitle."""
        whole, title = self.fields["title"].strip("{}").casefold(), title.casefold()
        return whole.startswith(title) and (title[-1] in "?)" or whole[len(title) :][:1] in ("", ":"))


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


def papers_of_notebooks():
    """Each bullet under ``## Papers``, in one line, with its notebook."""
    for path in sorted((PROJECT / "notebooks").glob("*.ipynb")):
        last = "".join(json.loads(path.read_text("utf-8"))["cells"][-1]["source"])
        for bullet in re.findall(r"^- .*(?:\n  .*)*", last.partition("## Papers\n")[2], re.MULTILINE):
            yield path.name, " ".join(bullet.split())


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


def test_every_notebook_names_papers():
    notebooks = {path.name for path in (PROJECT / "notebooks").glob("*.ipynb")}
    assert {name for name, _ in papers_of_notebooks()} == notebooks


def test_the_papers_of_a_notebook_are_linked_as_in_the_bibliography():
    at, wrong = {paper.address: paper for paper in PAPERS}, []
    for name, bullet in papers_of_notebooks():
        said = _BULLET.fullmatch(bullet)
        paper = said and at.get(said["address"])
        if not paper:
            wrong.append(f"{name}: not '- Authors year, [*Title*](address of {BIBLIOGRAPHY.name}): claim.': {bullet}")
        elif not (
            said["who"].startswith(paper.first_author)
            and said["year"] == paper.fields["year"]
            and paper.is_called(said["title"])
        ):
            wrong.append(f"{name}: {paper.key} has another first author, year or title than: {bullet}")
    assert wrong == []
