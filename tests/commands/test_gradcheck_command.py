import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from moe_numpy.autodiff import Function
from moe_numpy.commands.gradcheck import _FEW, gradcheck
from moe_numpy.gradcheck import cases
from moe_numpy.gradcheck.cases import Case

app = typer.Typer()
app.command()(gradcheck)


class Double(Function):
    def forward(self, x):
        return 2 * x

    def backward(self, grad):
        return 2 * grad


class Flipped(Double):
    def backward(self, grad):
        return -2 * grad


class Infinite(Double):
    def backward(self, grad):
        return grad / 0.0


for function, module in ((Double, "ops.scaling"), (Flipped, "moe.gates"), (Infinite, "moe.gates")):
    function.__module__ = f"test_gradcheck_command.{module}"


def case_of(function, name):
    return Case(name, (function,), lambda rng: (lambda x: function.apply(x), [rng.standard_normal((2, 3))]))


@pytest.fixture
def known(monkeypatch):
    """A right case and a wrong one."""
    both = [case_of(Double, "double_vector"), case_of(Flipped, "flip_gate")]
    monkeypatch.setattr(cases, "all_cases", lambda: both)
    monkeypatch.setattr(cases, "functions_without_case", list)
    return both


def run(*arguments, **env):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb", **env})


def test_all_right_exits_with_0(known):
    result = run("double")
    assert result.exit_code == 0, result.output
    assert "✓ ok" in result.stdout
    assert "FAIL" not in result.stdout
    assert "1 checks of 1 Functions, all passed: 6 derivatives compared" in result.stdout


def test_failure_exits_with_1_and_shows_the_report_below_the_table(known):
    result = run()
    assert result.exit_code == 1
    table, report = result.stdout.split("gradcheck FAILED")
    assert "✗ FAIL" in table
    assert "flip_gate" in table
    assert "double_vector" in table
    assert "gradient of x, shape (2, 3): 6 wrong entries" in report
    assert "diagnosis: the sign is flipped" in report
    assert "2 checks of 2 Functions, 1 failed" in report


def test_function_without_case_is_a_failing_row(known, monkeypatch):
    monkeypatch.setattr(cases, "functions_without_case", lambda: [Infinite])
    result = run("infinite")
    assert result.exit_code == 1
    assert "(none)" in result.stdout
    assert "Infinite has no gradient case; write one in moe_numpy/gradcheck/cases/" in result.stdout


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("DOUBLE", ["double_vector"]),
        ("flip_*", ["flip_gate"]),
        ("Flip", ["flip_gate"]),
        ("moe", ["flip_gate"]),
        ("moe.gates", ["flip_gate"]),
        ("ops.*", ["double_vector"]),
        ("*_?ect*", ["double_vector"]),
        ("e", ["double_vector", "flip_gate"]),
    ],
)
def test_pattern_selects_by_case_function_and_module(known, pattern, expected):
    rows = json.loads(run(pattern, "--json").stdout)["rows"]
    assert [row["case"] for row in rows] == expected


def test_no_match_names_what_is_near_and_exits_with_2(known):
    result = run("dubble_vector")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "did you mean double_vector" in " ".join(result.stderr.split())
    assert "dubble_vector" in result.stderr
    assert "did you mean" not in run("xyzzy").stderr


def test_json_is_one_document(known):
    result = run("--json", "--seed", "5")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    right, wrong = document["rows"]
    assert (right["functions"], right["case"], right["passed"]) == (["Double"], "double_vector", True)
    assert (right["compared"], right["moved"], right["skipped"], right["failures"]) == (6, 0, 0, [])
    assert right["max_relative_error"] < 1e-9
    assert not wrong["passed"]
    assert "the sign is flipped" in wrong["failures"][0]
    summary = document["summary"]
    assert (summary["checks"], summary["passed"], summary["failed"], summary["compared"]) == (2, 1, 1, 12)
    assert summary["max_relative_error"] < 1e-9


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_json_has_no_infinity(known):
    known.append(case_of(Infinite, "infinite"))
    document = json.loads(run("infinite", "--json").stdout, parse_constant=pytest.fail)
    assert document["rows"][0]["max_relative_error"] is None


def test_seed_reaches_the_case(known):
    seen = []

    def build(rng):
        seen.append(rng.standard_normal())
        return lambda x: Double.apply(x), [rng.standard_normal(2)]

    known[:] = [Case("seeded", (Double,), build)]
    run("--seed", "1")
    run("--seed", "2")
    assert seen[0] != seen[1]


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_pipe_shows_progress_on_stderr(known, monkeypatch, options):
    assert run(*options).stderr == ""  # it takes no two seconds
    monkeypatch.setattr("moe_numpy.commands.text_progress._QUIET", 0)
    result = run(*options)
    assert "checked 1 of 2 cases" in result.stderr
    assert "checked" not in result.stdout
    assert not options or json.loads(result.stdout)["summary"]["checks"] == 2


def test_no_colour_in_a_pipe(known):
    assert "\x1b" not in run("double").stdout


def test_colour_only_where_it_is_wanted(known):
    coloured = run("double", FORCE_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b[32m" in coloured
    plain = run("double", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b[32m" not in plain


def test_symbols_only_where_they_can_be_printed(known):
    result = CliRunner(charset="ascii").invoke(app, ["double"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    assert "ok" in result.stdout
    assert "✓" not in result.stdout


def test_real_cases_pass_over_all_cores():
    """As from a shell. `make gradcheck` checks all cases."""
    program = "import typer; from moe_numpy.commands.gradcheck import gradcheck; typer.run(gradcheck)"
    result = subprocess.run(
        [sys.executable, "-c", program, "ops.activations", "--json"], capture_output=True, text=True, check=False
    )
    document = json.loads(result.stdout)
    assert [row for row in document["rows"] if not row["passed"]] == []
    assert result.returncode == 0
    assert document["summary"]["max_relative_error"] < 1e-6
    assert document["summary"]["checks"] > _FEW


def test_no_function_of_the_package_is_without_a_case():
    assert cases.functions_without_case() == []
