import json
import os
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


@pytest.fixture
def small(monkeypatch):
    """A course of three small files, to be changed by name."""
    files = {"notebooks/a.ipynb": b"one", "docs/b.md": b"two", "docs/c.md": b"three"}
    monkeypatch.setattr("moe_numpy.commands.course.files_of_the_course", lambda: iter(list(files.items())))
    return files


def told_by(cli, folder, *options):
    done = json.loads(cli("course", folder, "--json", *options).stdout)
    assert done.pop("folder") == str(folder)
    return {how: [Path(path).name for path in paths] for how, paths in done.items()}


def test_a_newer_course_replaces_what_was_not_edited_and_keeps_what_was(cli, small, tmp_path):
    mine = tmp_path / "mine"
    told_by(cli, mine)
    (mine / "docs/b.md").write_bytes(b"my notes")
    small |= {"notebooks/a.ipynb": b"one, newer", "docs/b.md": b"two, newer", "docs/d.md": b"four"}
    expected = {"written": ["d.md"], "updated": ["a.ipynb"], "kept": ["b.md"], "same": ["c.md"]}
    assert told_by(cli, mine) == expected
    assert (mine / "notebooks/a.ipynb").read_bytes() == b"one, newer"
    assert (mine / "docs/b.md").read_bytes() == b"my notes"
    (mine / "docs/b.md").write_bytes(b"two")  # as it was copied: the edit is undone
    assert told_by(cli, mine)["updated"] == ["b.md"]
    small["docs/c.md"] = b"three, newer"
    assert "0 files written to" in (shown := cli("course", mine).stdout)
    assert "1 replaced by newer ones; 3 were there already" in shown


def test_what_was_copied_before_the_digests_were_recorded_counts_as_edited(cli, small, tmp_path):
    told_by(cli, tmp_path)
    (tmp_path / ".course.json").unlink()
    small["docs/c.md"] = b"three, newer"
    assert told_by(cli, tmp_path) == {"written": [], "updated": [], "kept": ["c.md"], "same": ["a.ipynb", "b.md"]}
    assert told_by(cli, tmp_path, "--force")["written"] == ["c.md"]
    small["docs/c.md"] = b"three, newest"
    assert told_by(cli, tmp_path)["updated"] == ["c.md"]


def test_a_copy_that_was_stopped_goes_on(cli, small, tmp_path, monkeypatch):
    def stopped():
        yield from list(small.items())[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr("moe_numpy.commands.course.files_of_the_course", stopped)
    assert cli("course", tmp_path).exit_code == 130
    monkeypatch.setattr("moe_numpy.commands.course.files_of_the_course", lambda: iter(small.items()))
    small["notebooks/a.ipynb"] = b"one, newer"
    expected = {"written": ["c.md"], "updated": ["a.ipynb"], "kept": [], "same": ["b.md"]}
    assert told_by(cli, tmp_path) == expected


def test_odd_things_in_the_folder_are_named_and_nothing_is_changed(refused, small, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (".course.json", "notebooks/a.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "pipe").rename(tmp_path / name)
        assert f"{tmp_path / name}: is not a regular file" in refused("course", tmp_path)
        (tmp_path / name).rename(tmp_path / "pipe")
    (tmp_path / ".course.json").write_text('{"a": 1}')
    assert ".course.json is damaged" in refused("course", tmp_path)
    assert not (tmp_path / "docs").exists()


def test_a_file_in_place_of_the_folder_is_refused(cli, tmp_path):
    (tmp_path / "taken").write_text("")
    done = cli("course", tmp_path / "taken")
    assert done.exit_code == 2
    assert "taken is a file, and the course needs a folder" in done.stderr
