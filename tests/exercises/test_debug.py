"""A failing call that is printed fails when it is pasted, in the same way."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from exercises import debug
from exercises.catalog import find
from exercises.cli import app
from exercises.exercise import Seeded
from exercises.grading.grade import grade_source

WRONG = {
    "a Function's gradient": (5, "(grad - (grad * y).sum(axis=-1, keepdims=True))", "grad", "gradient of x, yours:"),
    "a Function": (5, "return e / e.sum", "return 2 * e / e.sum", "yours:"),
    "a function": (11, "return np.argsort(-scores", "return np.argsort(scores", "yours:"),
    "a method, with a driver": (24, "place < size", "place <= size", "yours:"),
    "generators": (13, "sigma * _like", "2 * sigma * _like", "yours:"),
    "an argument that is changed": (2, "return a * b  # see", "a *= b; return a  # see", "a afterwards:"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_failing_call_fails_again(workspace, solve, capsys, name):
    number, right, wrong, told = WRONG[name]
    exercise = find(number)

    def break_it(source):
        assert source.count(right) == 1
        return source.replace(right, wrong)

    path = solve(exercise, break_it)
    printed = CliRunner().invoke(app, ["debug", exercise.label]).stdout
    exec(compile(printed, "pasted", "exec"), {})
    out = capsys.readouterr().out
    assert told in out
    assert "expected:" in out
    yours, _, expected = out.partition(told)[2].partition("expected:")
    if number != 2:
        assert yours.split("\ngradient")[0].split() != expected.split("\ngradient")[0].split()
    solve(exercise)
    capsys.readouterr()
    exec(compile(printed, "pasted", "exec"), {})
    yours, _, expected = capsys.readouterr().out.partition(told)[2].partition("expected:")
    if number != 2:
        assert yours.split("\ngradient")[0].split() == expected.split("\ngradient")[0].split()
    assert path.exists()


def test_an_endless_loop_is_found(workspace, solve):
    """Only one of the calls does not end."""
    exercise = replace(find(11), time_limit=0.3)
    path = solve(exercise, lambda source: source.replace("    return", "    while not len(scores): pass\n    return"))
    result = grade_source(exercise, path.read_text(), str(path))
    assert result.smallest_failure is None
    failure = debug.failing_case(result, path.read_text())
    printed = debug.snippet(exercise, failure, 0, path)
    assert "no answer within" in printed
    assert "scores = np.zeros((0," in printed


def test_what_passes_or_does_not_run_has_no_failing_call(workspace, solve):
    solve(find(11))
    assert "it passes" in CliRunner().invoke(app, ["debug", "11"]).output
    workspace.path(find(11)).write_text("def top_k(")
    assert "the file does not run" in CliRunner().invoke(app, ["debug", "11"]).output


def test_it_runs_under_pdb_from_the_first_line_of_the_function(workspace, solve):
    solve(find(5), lambda source: source.replace("(grad - (grad * y).sum(axis=-1, keepdims=True))", "grad"))
    done = subprocess.run(
        [sys.executable, "-m", "exercises", "debug", "05", "--pdb"],
        input="p grad.shape\nq\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "(y,) = self.saved" in done.stdout
    assert "(Pdb) (6,)" in done.stdout


@pytest.mark.parametrize("layout", ["C", "F", "strided"])
@pytest.mark.parametrize(
    "value",
    [
        np.array([[0.1, -np.inf, np.nan], [1e-300, 1 / 3, 2.0]]),
        np.float32([0.1, 3.4e38, 1 / 3]),
        np.arange(40).reshape(2, 4, 5),
        np.array([True, False]),
        np.zeros((0, 4), np.int32),
        np.array(2.5),
    ],
)
def test_arrays_are_written_exactly(value, layout):
    made = eval(debug.literal(value, layout), {"np": np, "inf": np.inf, "nan": np.nan})
    assert (made.dtype, made.shape) == (value.dtype, value.shape)
    np.testing.assert_array_equal(made, value)
    if layout == "F":
        assert made.flags.f_contiguous
    if layout == "strided" and value.size > 1:
        assert not made.flags.c_contiguous


def test_other_values_are_written_exactly():
    for value in [None, 3, 0.1, "a", [1, (2.0,)], {"a": (1, 2)}, np.int64(3)]:
        assert eval(debug.literal(value), {"np": np}) == value
    assert debug.literal(Seeded(3)) == "np.random.default_rng(3)"
