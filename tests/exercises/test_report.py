"""What the reports look like."""

import io

import pytest
from rich.console import Console

from exercises.catalog import all_exercises, find
from exercises.export import gradescope, junit, markdown
from exercises.grading.compare import Problem
from exercises.grading.grade import CheckResult, Result
from exercises.report import next_up, print_result
from exercises.training.report import print_comparison
from exercises.training.run import Comparison, TrainingError, _require_answer


def result(*problems, output="", warnings=()):
    checks = [CheckResult(f"check {i}", 2, p, list(warnings), output) for i, p in enumerate(problems)]
    return Result(find(11), checks, 0, 0.1, "ex11_top_k.py")


def shown(r, width=100):
    console = Console(file=io.StringIO(), width=width)
    print_result(console, r, find(5))
    return console.file.getvalue()


VALUES = Problem(
    "values",
    "1 of 4 entries are wrong",
    case="top_k(float64[2, 2], 2)",
    index=(1, 0),
    yours="2",
    expected="3",
    arrays={"yours": "[[1 2]\n [2 2]]"},
    recognised="off by one",
    explanation="Counts from 1.",
    mistake="k + 1",
    next_step="count from 0",
)
NUMERIC = Problem(
    "values", "all wrong", where="gradient of argument 0", index=(), yours="2", expected="3", numeric=True
)
EXCEPTION = Problem("exception", "ValueError: no", line=7, code="raise ValueError('no')")


def test_a_failure_has_case_entry_values_mistake_and_next_step():
    text = shown(result(VALUES))
    for part in ("✗ not yet", "top_k(float64[2, 2], 2)   seed 0", "worst at [1, 0]:  yours 2   expected 3", "[[1 2]"):
        assert part in text
    assert "“off by one”: Counts from 1." in text
    assert "as with this code: k + 1" in text
    assert "next: count from 0" in text


def test_gradients_are_analytic_against_numeric():
    assert "worst at the only entry:  analytic 2   numeric 3" in shown(result(NUMERIC))


def test_what_repeats_is_said_once():
    assert shown(result(EXCEPTION, EXCEPTION)).count("ValueError: no") == 1
    assert shown(result(VALUES, VALUES)).count("Counts from 1.") == 1


def test_warnings_and_prints_are_shown():
    text = shown(result(None, output="hello\x1b[31m\n", warnings=["UserWarning: careful"]))
    assert "✓ passed" in text
    assert "warning, costs nothing: UserWarning: careful" in text
    assert "hello[31m" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("form", [gradescope, junit, markdown])
def test_exports_name_every_problem(form):
    text = form([result(VALUES, NUMERIC, EXCEPTION, None)])
    assert "ValueError: no" in text
    assert "1 of 4 entries are wrong" in text


def test_what_comes_next_is_what_is_ready(workspace, solve):
    exercises = all_exercises()
    assert next_up(exercises, workspace).number == 1
    for e in exercises:
        path = solve(e)
        workspace.record(e, path.read_text(), e.points, True)
    assert next_up(exercises, workspace) is None


def test_curves_that_differ_are_no_agreement():
    console = Console(file=io.StringIO(), width=100)
    comparison = Comparison([5.0, 4.0], [5.0, 4.5], {"11": 3})
    print_comparison(console, comparison, [find(5), find(9), find(11)], {5, 11})
    text = console.file.getvalue()
    assert "differ by more than" in text
    assert "nobody's: yours was never called" in text
    assert "not part of the model" in text
    comparison.mine[1] = float("nan")
    assert not comparison.agrees
    comparison.mine[1] = comparison.library[1] = 4.0
    print_comparison(console, comparison, [find(11)], {11})
    assert "the curves agree" in console.file.getvalue()


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"type": "KeyError", "message": "x", "line": 3, "file": "a.py", "code": "y"}},
        {"tampered": ["numpy.sum"]},
        {"losses": [1.0, 2.0], "calls": {}},
    ],
)
def test_training_that_goes_wrong_says_why(answer):
    with pytest.raises(TrainingError, match=r"KeyError: x \(a.py, line 3: y\)|replaced numpy.sum|no answer"):
        _require_answer(answer, 1)
