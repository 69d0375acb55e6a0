"""The commands as a learner types them."""

import contextlib
import errno
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import exercises
from exercises import containment, keyboard, terminal, watch
from exercises.catalog import all_exercises, find, numbers
from exercises.cli import app
from exercises.progress_file import Progress
from exercises.stubs import make_stub
from exercises.workspace import Workspace


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


def test_a_hint_begins_with_the_check_that_failed_last(workspace, solve):
    assert "failed:" not in run("hint", "11").output
    solve(find(11), lambda source: source.replace("-scores", "scores"))
    run("check", "11")
    first = find(11).checks[0]
    assert f"failed: {first.name}  → {first.next_step}" in run("hint", "11").output
    solve(find(11))
    run("check", "11")
    assert "failed:" not in run("hint", "11").output


def test_the_solution_is_shown_after_passing_or_giving_up(workspace):
    assert run("solution", "11").exit_code == 2
    shown = run("solution", "11", "--give-up").output
    assert workspace.progress()["11"].gave_up
    workspace.path(find(11)).write_text(shown)
    assert run("check", "11").exit_code == 0
    assert "✓ passed*" in run("list").output


def test_the_list_loses_nothing_at_80_columns(workspace, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    workspace.update("05", attempts=1, best=11)
    table = run("list").output.partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    lines = {line[:2]: line.split() for line in table.splitlines()}
    for e in all_exercises():
        points = f"11/{e.points}" if e.number == 5 else str(e.points)
        assert [str(e.minutes), points] == lines[e.label][-3:-1]


def test_open_makes_the_file_and_derive_leaves_out_the_formula(workspace):
    formula = "dx = y (dy - Σ dy y)"
    assert str(workspace.path(find(5))) in run("open", "05").output.replace("\n", "")
    assert formula in workspace.path(find(5)).read_text()
    assert run("open", "05", "--derive").exit_code == 0
    assert workspace.path(find(5)).read_text() == make_stub(find(5), derive=True)
    assert workspace.untouched(find(5))
    workspace.path(find(5)).write_text("mine")
    assert "has work of yours" in run("open", "05", "--derive").output
    assert run("reset", "05", "--derive").exit_code == 0
    assert workspace.path(find(5)).with_suffix(".py.bak").read_text() == "mine"
    assert "no derivative" in run("open", "11", "--derive").output


def test_reset_keeps_what_was_there(workspace, solve):
    path = solve(find(11))
    mine = path.read_text()
    assert run("reset", "11").exit_code == 0
    assert path.read_text() == make_stub(find(11))
    assert path.with_suffix(".py.bak").read_text() == mine


def test_a_second_reset_keeps_both(workspace):
    path = workspace.ensure(find(11))
    for text in ("first", "second", "third"):
        path.write_text(text)
        assert run("reset", "11").exit_code == 0
    assert [path.with_name(f"{path.name}.bak{n}").read_text() for n in ("", 2, 3)] == ["first", "second", "third"]
    run("reset", "11")  # nothing to keep
    assert not os.path.exists(path.with_name(f"{path.name}.bak4"))


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.write_bytes("# grün".encode("latin-1")),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to(path),
    ],
    ids=["latin-1", "bytes", "folder", "pipe", "loop"],
)
def test_reset_keeps_whatever_was_there(workspace, put):
    path = workspace.path(find(11))
    path.parent.mkdir()
    put(path)
    before = os.lstat(path)
    assert run("check", "11").exit_code == 1
    assert run("list").exit_code == 0
    assert run("reset", "11").exit_code == 0
    assert path.read_text() == make_stub(find(11))
    assert os.lstat(path.with_suffix(".py.bak")).st_ino == before.st_ino


DAMAGES = ["", "{", "[]", "null", '{"01": 3}', '{"01": {"hints": "2"}}', '{"01": {"hints": true}}', "\x00" * 100]
DAMAGES += ["[" * 100_000, '{"01": ' * 100_000]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_progress_file_costs_nothing(workspace, damage):
    workspace.update("01", hints=2)
    workspace.update("02", best=5)
    file = workspace.folder / "progress.json"
    file.write_text(damage)
    assert workspace.progress() == {"01": Progress(hints=2), "02": Progress(best=5)}
    workspace.update("01", hints=1)
    assert workspace.progress() == {"01": Progress(hints=1), "02": Progress(best=5)}
    assert file.with_suffix(".json.damaged").read_text() == damage
    (workspace.folder / ".progress.json.copy").write_text("{")
    assert workspace.progress()["01"] == Progress(hints=1)


@pytest.mark.parametrize(
    "put", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("nowhere")]
)
def test_what_is_no_file_in_the_place_of_progress_costs_nothing(workspace, put):
    workspace.update("01", hints=2)
    file = workspace.folder / "progress.json"
    file.unlink()
    put(file)
    assert workspace.progress() == {"01": Progress(hints=2)}
    workspace.update("02", best=5)
    assert workspace.progress() == {"01": Progress(hints=2), "02": Progress(best=5)}
    assert file.is_file()


def test_progress_of_two_processes_is_not_lost(workspace):
    code = (
        "import sys; from exercises.workspace import Workspace\n"
        "for i in range(int(sys.argv[1]), 60, 2): Workspace().update(f'{i:02}', hints=i)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(first)]) for first in (0, 1)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert {label: p.hints for label, p in workspace.progress().items()} == {f"{i:02}": i for i in range(60)}


def test_a_folder_with_an_escape_code_in_its_name(workspace, monkeypatch):
    monkeypatch.setenv("EXERCISES_WORK", f"{workspace.folder}\x1b[31m\nred")
    for words in (("list",), ("check", "11"), ("reset", "11")):
        result = run(*words)
        assert "[31m red" in result.output
        assert "\x1b" not in result.output


def test_a_read_only_folder_is_listed_and_checked_and_nothing_is_saved(workspace, monkeypatch, capsys):
    def refuse(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("exercises.workspace.write_atomically", refuse)
    monkeypatch.setattr("exercises.progress_file.write_atomically", refuse)
    for words in (("list",), ("check", "11"), ("hint", "11"), ("solution", "--give-up", "11")):
        result = run(*words)
        assert result.exit_code == (1 if words[0] == "check" else 0)
        assert "cannot be written (Read-only file system): nothing is saved there" in result.stderr
    assert run("reset", "11").exit_code == 2
    assert not exercises.check("11")
    assert "nothing is saved there" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("checkout", "writable", "place", "notice"),
    [
        (True, True, "project/exercises/work", ""),
        (True, False, "here/exercises_work", "cannot be made; your files are in"),
        (False, True, "here/exercises_work", ""),
    ],
)
def test_where_the_files_are(tmp_path, monkeypatch, checkout, writable, place, notice):
    monkeypatch.delenv("EXERCISES_WORK", raising=False)
    for name in ("project/exercises", "here"):
        (tmp_path / name).mkdir(parents=True)
    if checkout:
        (tmp_path / "project/pyproject.toml").touch()
    monkeypatch.setattr("exercises.workspace._PROJECT", tmp_path / "project")
    monkeypatch.setattr("exercises.workspace.os.access", lambda *args: writable)
    monkeypatch.chdir(tmp_path / "here")
    found = Workspace()
    assert found.folder == tmp_path / place
    assert notice in found.notice
    assert bool(found.notice) == bool(notice)
    if notice:
        assert notice in run("list").stderr
    assert found.ensure(find(1)).exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_symbol_can_be_printed(workspace, solve, encoding):
    """Hints have formulas; 11 passes, 01 does not."""
    solve(find(11))
    code = "import runpy, sys\nfor words in ('list', 'hint 06', 'check 11', 'export 01', 'check 01'):\n"
    code += "  sys.argv = ['exercises', *words.split()]\n"
    code += "  try: runpy.run_module('exercises', run_name='__main__')\n  except SystemExit as end: print(end.code)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode(encoding)
    assert "+ passed" in text
    assert [line for line in text.splitlines() if line in ("0", "1", "2")] == ["0", "0", "0", "0", "1"]


def test_symbols_are_spelled_out():
    assert "".join(map(terminal._in_ascii, "✓→Σδ₂éλ–漢")) == "+->Sigmadelta2elambda-?"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_whatever_is_chosen_ends_in_one_line_or_works(workspace, which):
    result = run("reset", "--", which)
    assert result.exit_code in (0, 2)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code == 0 or len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--recipe", "nonsense"),
        ("train", "--recipe", ""),
        ("export", "--out", "", "11"),
        ("export", "--out", ".", "11"),
        ("export", "--out", "/dev/null/x", "11"),
        ("export", "--format", "\x1b[2J"),
        ("check", "٣"),
        ("check", "³"),
        ("check", "1" * 5000),
        ("check", "5-3"),
        ("check", ""),
    ],
)
def test_odd_options_end_in_one_line(workspace, words):
    result = run(*words)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1
    assert "\x1b" not in result.output


def test_training_takes_a_number_of_seconds(workspace):
    assert run("train", "--seconds", "nan").exit_code == 2


def test_a_folder_that_is_a_file_ends_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EXERCISES_WORK", str(tmp_path / "file"))
    assert run("list").exit_code == 0
    result = run("reset", "11")
    assert result.exit_code == 2
    assert result.output.startswith("error: ")


def test_the_list_says_what_contains_the_learners_code(workspace):
    assert f"behind: {', '.join(containment.available())}" in " ".join(run("list").output.split())


def test_export_to_gradescope(workspace, solve):
    solve(find(11))
    run("hint", "11")
    grades = json.loads(run("export", "--format", "gradescope", "11").stdout)
    assert grades["score"] == find(11).points
    assert grades["extra_data"]["11"] == {"attempts": 1, "hints": 1, "gave_up": False}
    assert {t["status"] for t in grades["tests"]} == {"passed"}


def test_export_to_junit(workspace, tmp_path):
    out = tmp_path / "new" / "junit.xml"
    assert run("export", "--format", "junit", "--out", out, "11").exit_code == 0
    suite = ElementTree.parse(out).getroot()[0]
    assert suite.get("failures") == suite.get("tests") == str(len(find(11).checks))
    assert {p.get("name"): p.get("value") for p in suite.iter("property")}["attempts"] == "1"


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
        "11 Top-k, with ties   ✗ not yet  0 of 14 points, about 15 minutes",
        "  next: edit work/ex11_top_k.py, then run this again",
        "  hint: python -m exercises hint 11",
    ]
    assert workspace.progress() == {}  # nothing was run

    path = workspace.path(find(11))
    path.write_text(path.read_text() + "# begun\n")
    verdict = exercises.check("11")
    out = capsys.readouterr().out
    assert not verdict
    assert repr(verdict) == out.rstrip("\n")
    assert "NotImplementedError" in out
    assert "  work/ex11_top_k.py   hint" in out
    assert str(tmp_path) not in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 96


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
    before = os.times()
    code = "import sys; from exercises.cli import app; app(['check', '11'], standalone_mode=False)"
    loaded = "; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code + loaded], capture_output=True, text=True, check=False)
    assert done.stdout.rstrip().endswith("False")
    after = os.times()  # of processors, whatever else the machine does
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 4  # 0.6 s on an idle machine


def test_watch_notices_new_and_changed_files_and_keys(workspace, solve):
    class Pressed:
        def __init__(self):
            self.steps = iter([lambda: workspace.ensure(find(1)), lambda: solve(find(11)), lambda: "h"])

        def pressed(self, seconds):
            done = next(self.steps)()
            return done if isinstance(done, str) else ""

    seen = watch.events(watch.Changes(workspace, all_exercises()), Pressed())
    assert [next(seen).number, next(seen).number, next(seen)] == [1, 11, "h"]


class Typed:
    """Keys, and saves between them, in the place of a terminal."""

    available = True

    def __init__(self, *steps):
        self.steps = iter(steps)

    def pressed(self, seconds):
        step = next(self.steps)
        return step if isinstance(step, str) else step() and ""

    def one_by_one(self):
        return contextlib.nullcontext()

    as_usual = one_by_one


def test_what_the_keys_of_watch_do(workspace, solve, monkeypatch):
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    console = Console(file=io.StringIO(), width=80)
    last = find(numbers()[-1])

    def save():
        path = solve(last)
        for exercise in all_exercises()[:-1]:
            workspace.record(exercise, workspace.ensure(exercise).read_text(), 0, True)
        return path

    watch.watch(workspace, console, Typed("h", "n", "o", "l", "x", save, "h", "n", "o", "q"), find(1))
    told = console.file.getvalue()
    parts = ["Keys: h hint", "Next: 01", "1 of 3", "Next: 02", "names no editor", "0 of", "✓ passed", "All done"]
    found = [told.find(part) for part in parts]
    assert found == sorted(found), dict(zip(parts, found, strict=True))
    assert min(found) >= 0, dict(zip(parts, found, strict=True))


def test_watch_begins_where_it_is_told(workspace, monkeypatch):
    monkeypatch.setattr(keyboard, "Keys", lambda: Typed("h", "q"))
    told = run("watch", "12").output
    assert "Next: 12" in told
    assert told.count(find(12).title) == 2  # the key h gives its hint
    assert "1 of 3" in told
    assert "Next: 01" in run("watch").output
    refused = run("watch", "99")
    assert refused.exit_code == 2
    assert "no exercise '99'" in refused.output


def until(descriptor, text):
    """Read until the text has come; what came."""
    came, began = "", time.perf_counter()
    while text not in came:
        assert time.perf_counter() - began < 60, came
        if select.select([descriptor], [], [], 1)[0]:
            came += os.read(descriptor, 1000).decode(errors="replace")
    return came


def test_watch_without_a_terminal_reacts_to_a_save(workspace, solve):
    workspace.ensure(find(11))
    watching = subprocess.Popen(
        [sys.executable, "-u", "-m", "exercises", "watch"],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored, if the tests run in the background
    )
    try:
        assert "Keys" not in until(watching.stdout.fileno(), "Next: 01")
        solve(find(11))
        until(watching.stdout.fileno(), "Next: 12")
    finally:
        end(watching)


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_watch_on_a_terminal_has_keys_and_survives_an_endless_loop(workspace, solve, tmp_path):
    """The editor writes the solution; Ctrl-C ends the check, not the watching; the terminal is as it was."""
    import pty
    import termios

    editor = tmp_path / "editor.py"
    editor.write_text("import shutil, sys\nshutil.copy(sys.argv[0] + '.solution', sys.argv[1])\n")
    solution = solve(find(11))
    solution.rename(f"{editor}.solution")
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    watching = subprocess.Popen(
        [sys.executable, "-m", "exercises", "watch"],
        stdin=theirs,
        stdout=theirs,
        env=os.environ | {"EDITOR": f"{sys.executable} {editor}", "TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until(ours, "Next: 01")
        os.write(ours, b"h")
        until(ours, find(1).hints[0][:30])
        os.write(ours, b"n")
        until(ours, "Next: 02")
        workspace.ensure(find(11)).write_text("def top_k(scores, k):\n    while True: pass\n")
        until(ours, "checking 11")
        watching.send_signal(signal.SIGINT)
        asked = time.perf_counter()
        until(ours, "stopped")
        assert time.perf_counter() - asked < 4
        os.write(ours, b"o")
        until(ours, "Next: 12")
        os.write(ours, b"q")
        assert watching.wait(timeout=30) == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
        os.close(theirs)


def test_ctrl_c_ends_an_endless_loop_at_once_and_loses_nothing(workspace, solve, tmp_path):
    path = solve(
        find(11), lambda source: source.replace("    return np.arg", "    while True: pass\n    return np.arg")
    )
    workspace.update("11", hints=2)
    before = path.read_text(), workspace.progress()
    checking = subprocess.Popen(
        [sys.executable, "-m", "exercises", "check", "11"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    began = time.perf_counter()
    while not list(tmp_path.glob("exercise-*")):  # the folder of a child
        assert time.perf_counter() - began < 60
        time.sleep(0.05)
    time.sleep(1)
    asked = time.perf_counter()
    checking.send_signal(signal.SIGINT)
    out, err = checking.communicate(timeout=60)
    assert time.perf_counter() - asked < 4  # the limit of one check is 5 s, and there are nine
    assert (checking.returncode, out) == (130, "")
    assert err == "stopped; your files, and what was graded before, are saved\n"
    assert (path.read_text(), workspace.progress()) == before
    assert not list(tmp_path.glob("exercise-*"))


def test_an_editor_that_is_missing_is_told(workspace, monkeypatch, tmp_path):
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    assert "names no editor" in keyboard.edit(tmp_path)
    monkeypatch.setenv("EDITOR", str(tmp_path / "nothing"))
    assert "does not start" in keyboard.edit(tmp_path)


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
