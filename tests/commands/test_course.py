import json
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
_LINK = re.compile(r"\]\(([^)\s#]+)[^)\s]*\)")


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    from typer.testing import CliRunner

    from moe_numpy.__main__ import app

    folder = tmp_path_factory.mktemp("course")
    assert CliRunner().invoke(app, ["course", str(folder)]).exit_code == 0
    return folder


def prose(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n".join(cell.source for cell in nbformat.reads(text, 4).cells if cell.cell_type == "markdown")


def test_all_notebooks_come_and_run_the_same_cells(copied):
    assert sorted(path.name for path in (copied / "notebooks").iterdir()) == NOTEBOOKS
    for name in NOTEBOOKS:
        ours, theirs = (nbformat.read(folder / "notebooks" / name, 4) for folder in (ROOT, copied))
        nbformat.validate(theirs)
        assert [(c.id, c.get("outputs")) for c in theirs.cells] == [(c.id, c.get("outputs")) for c in ours.cells]
        assert [c.source for c in theirs.cells if c.cell_type == "code"] == [
            c.source for c in ours.cells if c.cell_type == "code"
        ]


def test_every_link_leads_to_a_file_of_the_folder(copied):
    pages = [path for path in copied.rglob("*") if path.suffix in (".md", ".ipynb")]
    links = [(page, target) for page in pages for target in _LINK.findall(prose(page)) if ":" not in target]
    assert [(page.name, target) for page, target in links if not (page.parent / target).exists()] == []
    assert ("00_why_sparse.ipynb", "../sources/moe_numpy/moe/one_page.py") in [(p.name, t) for p, t in links]


def test_what_was_changed_stays_unless_forced(cli, copied, tmp_path):
    mine = tmp_path / "mine"
    assert json.loads(cli("course", mine, "--json").stdout)["kept"] == []
    first, second = (mine / "notebooks" / name for name in NOTEBOOKS[:2])
    original = first.read_bytes()
    first.write_text("changed")
    second.unlink()
    told = json.loads(cli("course", mine, "--json").stdout)
    assert (told["written"], told["kept"]) == ([str(second)], [str(first)])
    assert first.read_text() == "changed"
    shown = cli("course", mine).stdout
    assert str(first) in shown
    assert "--force overwrites" in shown
    assert json.loads(cli("course", mine, "--force", "--json").stdout)["written"] == [str(first)]
    assert first.read_bytes() == original


def test_a_file_in_place_of_the_folder_is_refused(cli, tmp_path):
    (tmp_path / "taken").write_text("")
    done = cli("course", tmp_path / "taken")
    assert done.exit_code == 2
    assert "taken is a file, and the course needs a folder" in done.stderr
