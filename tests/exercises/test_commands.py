"""The commands as a learner types them."""

import json
import os
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest
from IPython.core.formatters import DisplayFormatter
from typer.testing import CliRunner

import exercises
from exercises import watch
from exercises.catalog import find, numbers
from exercises.cli import app
from exercises.stubs import make_stub
from exercises.workspace import Progress


def run(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def test_without_a_command_the_learner_sees_what_comes_next(workspace):
    result = run()
    assert result.exit_code == 0
    assert "0 of" in result.output
    assert "python -m exercises check 01" in result.output
    assert workspace.path(find(1)).read_text() == make_stub(find(1))


def test_list_as_json(workspace):
    listed = json.loads(run("list", "--json").stdout)
    assert [entry["exercise"] for entry in listed] == [f"{n:02}" for n in numbers()]


def test_check_of_a_stub_fails_and_shows_where(workspace):
    result = run("check", "11")
    assert result.exit_code == 1
    assert "NotImplementedError" in result.output
    assert "ex11_top_k.py" in result.output


def test_a_solution_passes_is_remembered_and_reopened_by_an_edit(workspace, solve):
    path = solve(find(11))
    assert run("check", "11").exit_code == 0
    known = workspace.progress()["11"]
    assert (known.attempts, known.best) == (1, find(11).points)
    assert workspace.status(find(11), workspace.progress()) == "passed"
    path.write_text(path.read_text() + "# changed\n")
    assert workspace.status(find(11), workspace.progress()) == "edited"
    assert "edited" in run("list").output


@pytest.mark.parametrize(("which", "count"), [("1", 1), ("01", 1), ("top_k", 1)])
def test_how_exercises_are_named(workspace, which, count):
    assert len(json.loads(run("check", which, "--json").stdout)) == count


@pytest.mark.parametrize("which", ["99", "98-99", "nothing", "1-x"])
def test_what_is_not_there_is_refused(workspace, which):
    result = run("check", which)
    assert result.exit_code == 2
    assert "error:" in result.output


def test_hints_come_one_by_one(workspace):
    for n in (1, 2, 3, 3):
        assert f"{n} of 3" in run("hint", "11").output
    assert workspace.progress()["11"].hints == 3


def test_the_solution_is_shown_after_passing_or_giving_up(workspace, solve):
    assert run("solution", "11").exit_code == 2
    assert "argsort" in run("solution", "11", "--give-up").output
    assert workspace.progress()["11"].gave_up


def test_reset_keeps_what_was_there(workspace, solve):
    path = solve(find(11))
    mine = path.read_text()
    assert run("reset", "11").exit_code == 0
    assert path.read_text() == make_stub(find(11))
    assert path.with_suffix(".py.bak").read_text() == mine


def test_a_damaged_progress_file_is_no_disaster(workspace):
    workspace.update("01", hints=2)
    (workspace.folder / "progress.json").write_text("{")
    assert workspace.progress() == {}
    assert workspace.update("01", hints=1) == Progress(hints=1)


def test_export_to_gradescope(workspace, solve):
    solve(find(11))
    result = run("export", "--format", "gradescope", "11")
    grades = json.loads(result.stdout)
    assert grades["score"] == find(11).points
    assert {t["status"] for t in grades["tests"]} == {"passed"}


def test_export_to_junit(workspace, tmp_path):
    out = tmp_path / "new" / "junit.xml"
    assert run("export", "--format", "junit", "--out", out, "11").exit_code == 0
    suite = ElementTree.parse(out).getroot()[0]
    assert suite.get("failures") == suite.get("tests") == str(len(find(11).checks))


def test_export_to_markdown(workspace):
    assert "| 11 Top-k, with ties | 0 |" in run("export", "11").stdout


def test_export_refuses_other_formats(workspace):
    assert run("export", "--format", "word").exit_code == 2


def test_check_from_a_notebook(workspace, solve, capsys):
    solve(find(11))
    assert exercises.check("11")
    assert not exercises.check("01")
    assert "Top-k" in capsys.readouterr().out


def test_check_from_a_notebook_is_plain_text_and_names_files_from_the_project(workspace, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("exercises.workspace._PROJECT", tmp_path)
    monkeypatch.chdir(workspace.path(find(11)).parent.parent)
    monkeypatch.setenv("FORCE_COLOR", "1")
    exercises.check("11")
    assert capsys.readouterr().out.splitlines() == [
        "11 Top-k, with ties   ✗ not yet  0 of 13 points, about 15 minutes",
        "  next: edit work/ex11_top_k.py, then run this again",
        "  hint: python -m exercises hint 11",
    ]
    assert workspace.progress() == {}  # nothing was run

    path = workspace.path(find(11))
    path.write_text(path.read_text() + "# begun\n")
    verdict = exercises.check("11")
    out = capsys.readouterr().out
    assert (bool(verdict), repr(verdict)) == (False, "not yet")
    assert "NotImplementedError" in out
    assert "  work/ex11_top_k.py   hint" in out
    assert str(tmp_path) not in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 96


def test_a_verdict_is_not_echoed_by_a_notebook(capsys):
    assert DisplayFormatter().format(exercises.Verdict(True)) == ({}, {})
    assert capsys.readouterr().out == ""


def test_verify_of_one(workspace):
    result = run("verify", "1")
    assert result.exit_code == 0
    assert "0 with problems" in result.output


def test_train_needs_something_that_passed(workspace):
    assert run("train").exit_code == 2


def test_train_runs_the_learners_functions_and_agrees(workspace, solve):
    for number in (5, 11):
        solve(find(number))
        assert run("check", number).exit_code == 0
    result = run("train", "--steps", 2, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["agrees"]
    claims = {f["exercise"]: (f["whose"], f["calls"]) for f in report["functions"]}
    assert claims["05"][0] == claims["11"][0] == "yours"
    assert claims["05"][1] > 0
    assert claims["01"][0].startswith("nobody's")
    assert os.path.getsize(report["figure"]) > 1000


def test_train_ends_with_the_learners_line_when_it_raises(workspace, solve):
    def breaks_when_it_is_large(source):
        return source.replace("    return np.arg", "    assert len(scores) < 1000\n    return np.arg")

    path = solve(find(11), breaks_when_it_is_large)
    assert run("check", "11").exit_code == 0
    result = run("train", "--steps", 2)
    assert result.exit_code == 1
    assert "AssertionError" in result.output
    assert path.name in result.output


def test_check_answers_quickly_without_numba(workspace):
    began = time.perf_counter()
    code = "import sys; from exercises.cli import app; app(['check', '11'], standalone_mode=False)"
    after = "; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code + after], capture_output=True, text=True, check=False)
    assert done.stdout.rstrip().endswith("False")
    assert time.perf_counter() - began < 4  # 0.6 s on an idle machine


def test_watch_notices_new_and_changed_files(workspace, solve, monkeypatch):
    steps = iter([lambda: workspace.ensure(find(1)), lambda: solve(find(11)), lambda: None])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: next(steps)())
    changes = watch.changed_exercises(workspace)
    assert [next(changes).number, next(changes).number] == [1, 11]


def test_watch_reacts_to_a_save(workspace, solve):
    workspace.ensure(find(11))
    watching = subprocess.Popen(
        [sys.executable, "-u", "-m", "exercises", "watch"],
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored, if the tests run in the background
    )
    try:
        assert "Watching" in watching.stdout.readline()
        time.sleep(0.5)
        solve(find(11))
        saved = time.perf_counter()
        while "Top-k" not in watching.stdout.readline():
            assert time.perf_counter() - saved < 60
    finally:
        end(watching)


def end(process):
    """Ctrl-C, again if it comes at a moment when Python cannot raise."""
    for _ in range(30):
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=2) == 0
            break
        except subprocess.TimeoutExpired:
            continue
    process.stdout.close()
