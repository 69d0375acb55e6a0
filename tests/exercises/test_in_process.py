"""Grading where no process can be started: as with one, but for what only a process can do."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from exercises import html, notebook, report
from exercises.catalog import all_exercises
from exercises.grading import grade
from exercises.grading.in_process import SAID
from exercises.html import of_result

FIRST = all_exercises()[0]


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    for module in (grade, html, report):
        monkeypatch.setattr(module, "NO_PROCESSES", True)
    monkeypatch.setattr(grade, "Child", None)


def graded(source):
    return grade.grade_source(FIRST, source, "learner.py")


def test_right_code_passes():
    assert grade.grade_trusted(FIRST, FIRST.target).passed


def test_the_report_says_what_is_missing():
    assert SAID in of_result(graded(f"{FIRST.attribute} = 1"))


def test_a_name_that_a_solution_replaces_is_told_of_and_put_back():
    before = np.exp
    result = graded(f"import numpy as np\nnp.exp = None\n{FIRST.attribute} = 1")
    assert np.exp is before
    assert {check.problem.kind for check in result.checks} == {"tampered"}


def test_what_is_printed_is_kept():
    assert graded(f"print('here')\n{FIRST.attribute} = 1").checks[0].output.startswith("here")


def test_code_that_does_not_run_fails_every_check():
    assert {check.problem.kind for check in graded("def broken(:").checks} == {"load"}


def test_an_exercise_whose_reference_needs_a_missing_package_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("EXERCISES_WORK", str(tmp_path))
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "exercises.reference.positions_in_numba", raising=False)
    for told in (notebook.open("32"), notebook.check("32"), notebook.exercise("32", "def position_by_key(): ...")):
        assert not told
        assert repr(told) == "exercise 32 needs numba, which this Python lacks"


def test_a_missing_package_is_named():
    needy = replace(FIRST, preload=("no_such_package",))
    result = grade.grade_source(needy, f"{FIRST.attribute} = 1", "learner.py")
    assert "no_such_package" in result.checks[0].problem.message
