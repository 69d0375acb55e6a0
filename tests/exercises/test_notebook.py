"""The exercises inside IPython: cells, reports, and what they look like."""

import errno
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import exercises
from exercises import html, notebook
from exercises.catalog import find
from exercises.grading.compare import Problem
from exercises.grading.grade import CheckResult, Result
from exercises.solutions import runnable_solution
from exercises.stubs import make_stub


@pytest.fixture
def shell(workspace, monkeypatch):
    """An IPython that has loaded the extension."""
    monkeypatch.setattr(notebook, "_seen", {})
    monkeypatch.setattr(sys, "ps1", "", raising=False)  # IPython sets it; afterwards it is gone again
    made = InteractiveShell.instance()
    made.run_line_magic("load_ext", "exercises")
    made.next_inputs = []
    monkeypatch.setattr(made, "set_next_input", lambda text, replace=False: made.next_inputs.append(text))
    yield made
    InteractiveShell.clear_instance()


def run(shell, cell):
    """What a cell shows: pairs of HTML and text."""
    with capture_output() as captured:
        shell.run_cell(cell, store_history=True).raise_error()
    return [(o.data.get("text/html", ""), o.data["text/plain"]) for o in captured.outputs]


def test_an_exercise_is_opened_solved_and_checked_in_cells(shell, workspace):
    assert run(shell, 'import exercises; exercises.open("11")') == []
    (cell,) = shell.next_inputs
    assert cell == f"%%exercise 11\n{make_stub(find(11))}".rstrip()
    ((page, text),) = run(shell, cell)
    assert "exercises.open(&#x27;11&#x27;)" in page
    assert "not yet" in text
    assert workspace.progress() == {}  # a stub is not run

    ((page, text),) = run(shell, f"%%exercise 11\n{runnable_solution(find(11))}")
    assert "✓ passed" in page
    points = sum(check.points for check in find(11).checks)
    assert f"{points} of {points} points" in text
    assert workspace.path(find(11)).read_text() == runnable_solution(find(11))
    assert workspace.progress()["11"].passed

    ((page, text),) = run(shell, 'exercises.solution("11")')
    assert text == runnable_solution(find(11)).rstrip()
    shell.next_inputs.clear()
    run(shell, 'exercises.open("11")')
    assert "argsort" in shell.next_inputs[0]


def test_a_cell_overwrites_only_what_the_notebook_has_seen(shell, workspace):
    path = workspace.ensure(find(11))
    run(shell, 'import exercises; exercises.open("11")')
    run(shell, "%%exercise 11\nfirst = 1")
    run(shell, "%%exercise 11\nsecond = 2")
    assert not list(path.parent.glob("*.bak*"))
    path.write_text("mine = 'from an editor'\n")
    (kept, report) = run(shell, "%%exercise 11\nthird = 3")
    assert "kept as ex11_top_k.py.bak" in kept[1]
    assert "NameError" in report[1]
    assert path.with_suffix(".py.bak").read_text() == "mine = 'from an editor'\n"
    assert path.read_text() == "third = 3\n"


def test_a_report_is_shown_once_wherever_its_call_stands(shell, workspace):
    assert len(run(shell, 'import exercises; exercises.check("11"); exercises.check("01")')) == 2
    assert len(run(shell, 'report = exercises.check("11")')) == 1
    assert len(run(shell, "report")) == 1
    assert not shell.user_ns["report"]


def test_a_cell_is_checked_where_nothing_can_be_saved(shell, workspace, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("exercises.workspace.write_atomically", refuse)
    monkeypatch.setattr("exercises.progress_file.write_atomically", refuse)
    (report, note) = run(shell, f"%%exercise 11\n{runnable_solution(find(11))}")
    assert "✓ passed" in report[0]
    assert "nothing is saved there" in note[1]


def test_the_stub_to_derive(shell, workspace):
    run(shell, 'import exercises; exercises.open("05", derive=True)')
    assert "dx = y" not in shell.next_inputs[0]
    run(shell, "%%exercise 05\nx = 1")
    with pytest.raises(ValueError, match="has work of yours"):
        exercises.open("05", derive=True)
    with pytest.raises(ValueError, match="no exercise '99'"):
        exercises.open("99")
    with pytest.raises(ValueError, match="one exercise"):
        exercises.hint("05-06")


def test_hints_and_progress(shell, workspace):
    run(shell, "%%exercise 11\ndef top_k(scores, k):\n    return scores.argsort(axis=1)[:, :k]")
    ((page, text),) = run(shell, 'import exercises; exercises.hint("11")')
    assert find(11).checks[0].next_step in text
    assert find(11).hints[0] in text.replace("\n", "")
    assert "1 of 3" in page
    ((page, text),) = run(shell, "exercises.progress()")
    row = next(row for row in ElementTree.fromstring(page).iter("tr") if row[0].text == "11")
    assert [cell.text for cell in row][5:7] == ["1", "1"]
    assert "0 of " in text
    ((_, text),) = run(shell, 'exercises.solution("11")')
    assert "give_up=True" in text
    assert "argsort" in run(shell, 'exercises.solution("11", give_up=True)')[0][1]
    assert workspace.progress()["11"].gave_up


def test_an_interrupt_in_a_notebook_is_no_traceback(shell, workspace, monkeypatch):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("exercises.actions.grade_source", interrupted)
    ((_, text),) = run(shell, "%%exercise 11\nx = 1")
    assert text == "stopped; your files, and what was graded before, are saved"


def test_a_failed_check_has_a_picture_and_the_smallest_input(shell, workspace):
    wrong = runnable_solution(find(5)).replace("(grad - (grad * y).sum(axis=-1, keepdims=True))", "grad")
    ((page, text),) = run(shell, f"%%exercise 05\n{wrong}")
    tree = well_formed(page)
    (picture,) = tree.iter("{http://www.w3.org/2000/svg}svg")
    assert picture.get("role") == "img"
    assert re.search(r"3 by 4: 12 of 12 entries are wrong; worst at \[., .\]: analytic", picture.get("aria-label"))
    told = "".join(tree.itertext())
    assert "the smallest failing input, as code to paste into a cell: Softmax(float64[6])" in told
    assert "x = Tensor(np.array([" in told
    assert "python -m exercises debug 05" in text


def well_formed(page):
    """The tree of a page that has no scripts and no links, and works without a style sheet."""
    assert not {"script", "style", "link", "iframe", "img"} & tags_of(page)
    assert " on" not in {f" {name[:2]}" for name in attributes_of(page)}
    return ElementTree.fromstring(page)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def tags_of(page):
    return read(page).tags


def attributes_of(page):
    return read(page).attributes


def test_whatever_a_solution_says_stays_text():
    evil = "<script>alert(1)</script>\x1b[31m\" onclick='x"
    problem = Problem("exception", evil, case=evil, line=3, code=evil, where=evil, next_step=evil, arrays={"x": evil})
    problem.recognised = problem.explanation = problem.mistake = problem.yours = evil
    problem.pair = np.ones((2, 2)), np.zeros((2, 2))
    result = Result(find(11), [CheckResult(evil, 1, problem, [evil], evil)], 0, 1.0, evil, evil)
    assert "alert(1)" in "".join(well_formed(html.of_result(result)).itertext())


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3), (40, 50), (1, 1)])
def test_pictures_of_every_shape(shape):
    rng = np.random.default_rng(0)
    yours, expected = rng.standard_normal(shape), rng.standard_normal(shape)
    yours.flat[0], expected.flat[-1] = np.nan, -np.inf
    index = tuple(n - 1 for n in shape)
    page = html.heat_maps(Problem("values", "wrong", index=index, yours="1", expected="2", pair=(yours, expected)))
    names = [t.text for t in well_formed(page).iter("{http://www.w3.org/2000/svg}text")]
    part = " (a part)" if yours.size > 1000 else ""
    assert {f"{name}{part}" for name in ("expected", "yours", "yours - expected")} <= set(names)
    cells = len(list(well_formed(page).iter("{http://www.w3.org/2000/svg}rect")))
    assert cells == 3 * min(yours.size, html._ROWS * html._COLUMNS)
    assert ("the part around" in page) == (yours.size > 1000)


def test_both_maps_have_one_scale():
    """The same value has the same colour in both, however large the others are."""
    pair = np.array([[1.0, 0.5]]), np.array([[4.0, 0.5]])
    page = html.heat_maps(Problem("values", "wrong", index=(0, 0), pair=pair))
    colours = [r.get("fill") for r in well_formed(page).iter("{http://www.w3.org/2000/svg}rect")]
    assert colours[1] == colours[3]
    assert colours[0] != colours[2]


@pytest.mark.parametrize(
    "pair", [None, (np.zeros(0), np.zeros(0)), (np.array(1.0), np.array(2.0)), (np.zeros((0, 4)), np.zeros((3, 4)))]
)
def test_what_has_no_picture(pair):
    assert html.heat_maps(Problem("values", "wrong", pair=pair)) == ""


def test_a_wrong_shape_has_two_maps_and_no_difference():
    page = html.heat_maps(Problem("shape", "wrong shape", pair=(np.ones((2, 3)), np.ones((3, 2)))))
    assert "yours" in page
    assert "yours - expected" not in page


@pytest.mark.parametrize("colour", [html._GREEN, html._RED, html._GREY, html._AMBER])
def test_words_on_colour_can_be_read(colour):
    """White on it: WCAG's 4.5 to 1."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5
