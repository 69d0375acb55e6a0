"""A class graded unattended: whatever one student hands in, the others get their grades."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from exercises.actions import chosen
from exercises.catalog import find, numbers
from exercises.cli import app
from exercises.grading.grade import grade_trusted
from exercises.instructors import grading
from exercises.instructors.gradebook import Gradebook, Row
from exercises.instructors.grading import grade_class
from exercises.instructors.hand_ins import hand_ins, read
from exercises.source import solution_source
from exercises.stubs import make_stub
from exercises.workspace import Workspace

ROW = Row("anna", "01", "x", 3, 5, 0.25, 2, None, True, "a; b", "", 7, "0" * 64)


def run(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def solved(exercise):
    head = make_stub(exercise).split("\n\n\n")[0]
    return f"{head}\nfrom {exercise.target.partition(':')[0]} import *\n\n\n{solution_source(exercise.target)}"


def quick(number):
    """The first two checks of an exercise, half a second each, without looking for known mistakes."""
    exercise = find(number)
    return replace(exercise, time_limit=0.5, checks=exercise.checks[:2], mistakes=())


@pytest.fixture
def students(tmp_path):
    """Makes what a student hands in: files in a folder, or in a zip."""
    folder = tmp_path / "class"
    folder.mkdir()

    def hand_in(name, files):
        if name.endswith(".zip"):
            with zipfile.ZipFile(folder / name, "w") as archive:
                for place, text in files.items():
                    archive.writestr(place, text)
            return folder / name
        for place, text in files.items():
            path = folder / name / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder / name

    hand_in.folder = folder
    return hand_in


@pytest.fixture
def graded(students, tmp_path):
    """Grades the class; the rows by student and exercise."""

    def grade(*exercises, seed=0, book=None):
        scratch = tmp_path / f"scratch{time.monotonic_ns()}"
        scratch.mkdir()
        class_ = hand_ins(students.folder, exercises, scratch)
        return {row.key: row for row, _ in grade_class(class_, exercises, seed, book or Gradebook(tmp_path / "none"))}

    return grade


HANG = "def undo_broadcasting(grad, shape):\n    while True:\n        pass\n"
EXIT = "import os\nos._exit(3)\n"
KILL = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n"
FORGE = "import sys\nsys.stdout.buffer.write(b'MOE1' * 100)\nsys.exit('all passed')\n"
FILL = "def undo_broadcasting(grad, shape):\n    print('x' * 10**9)\n"
DELETE = "import shutil, pathlib\nshutil.rmtree(pathlib.Path(__file__).parent, ignore_errors=False)\n"


def test_one_file_does_not_stop_the_others(students, graded):
    one = quick(1)
    hostile = {"bad": "def (", "delete": DELETE, "exit": EXIT, "fill": FILL, "forge": FORGE, "hang": HANG, "kill": KILL}
    for name, text in hostile.items():
        students(name, {one.file_name: text})
    students("zoe", {one.file_name: solved(one)})
    rows = graded(one)
    assert [student for student, _ in rows] == [*hostile, "zoe"]
    assert {name: rows[name, "01"].points for name in hostile} == dict.fromkeys(hostile, 0)
    assert rows["zoe", "01"].passed
    assert rows["bad", "01"].failed.startswith(one.checks[0].name)


def test_files_are_found_in_folders_and_zips_wherever_they_lie(students, graded):
    one, two = quick(1), quick(2)
    students("anna", {f"homework/{one.file_name}": solved(one), two.file_name: make_stub(two)})
    students("ben.zip", {f"ben/deep/{one.file_name}": solved(one), f"__MACOSX/ben/._{one.file_name}": "\0"})
    students("carl", {one.file_name: make_stub(one), f"old/{one.file_name}": solved(one), f".git/{two.file_name}": "x"})
    (students.folder / "notes.txt").write_text("for me")
    rows = graded(one, two)
    assert rows["anna", "01"].passed
    assert rows["ben", "01"].passed
    assert (rows["anna", "02"].points, rows["anna", "02"].note) == (0, "")
    assert rows["ben", "02"].note == rows["carl", "02"].note == "not handed in"
    assert rows["carl", "01"].points == 0
    assert rows["carl", "01"].note == f"handed in more than once; {one.file_name} was graded"


def test_what_is_no_hand_in_costs_its_student_alone(students, graded):
    one = quick(1)
    secret = students.folder.parent / "secret.py"
    secret.write_text(solved(one))
    (students.folder / "a_link").mkdir()
    (students.folder / "a_link" / one.file_name).symlink_to(secret)
    (students.folder / "b_broken.zip").write_bytes(b"PK\3\4 no zip")
    (students.folder / "c_folder_link").symlink_to(students.folder.parent)
    students("d_bomb.zip", {one.file_name: "#" * 3_000_000})
    with zipfile.ZipFile(students.folder / "e_outside.zip", "w") as archive:
        archive.writestr(f"../../../{one.file_name}", solved(one))
        entry = zipfile.ZipInfo(f"link/{one.file_name}")
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        archive.writestr(entry, str(secret))
    (students.folder / "f_pipe").mkdir()
    os.mkfifo(students.folder / "f_pipe" / one.file_name)
    rows = graded(one)
    notes = {student: row.note for (student, _), row in rows.items()}
    assert notes["a_link"] == "not handed in"
    assert notes["b_broken"].startswith("b_broken.zip cannot be read")
    assert notes["c_folder_link"].endswith("is a link")
    assert "larger than 512 KiB" in notes["d_bomb"]
    assert notes["e_outside"] == "not handed in"
    assert "is a pipe" in notes["f_pipe"]
    assert not (students.folder.parent.parent / one.file_name).exists()


def test_a_pipe_in_place_of_a_zip_costs_its_student_alone(students, graded):
    os.mkfifo(students.folder / "anna.zip")
    students("zoe", {"x": ""})
    rows = graded(quick(1))
    assert "anna.zip cannot be read: is not a regular file" in rows["anna", "01"].note
    assert rows["zoe", "01"].note == "not handed in"


def test_a_zip_full_of_one_name_fills_no_disk(students, tmp_path):
    file, scratch = find(1).file_name, tmp_path / "scratch"
    path = students("anna.zip", {f"{i:03}/{file}": "#" * 10_000 for i in range(500)} | {file: "x = 1"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"folder/{find(2).file_name}/", "")
    found = read(path, [find(1), find(2)], scratch)
    assert found.files["01"].read_text() == "x = 1"
    assert found.files.keys() == {"01"}
    assert "handed in more than once; ex01_undo_broadcasting.py was graded" in found.notes["01"]
    assert sum(p.stat().st_size for p in scratch.rglob("*") if p.is_file()) < 100


def test_a_folder_and_a_zip_of_one_name_are_refused(students, graded):
    students("anna", {"x": ""})
    students("anna.zip", {"x": ""})
    with pytest.raises(ValueError, match="twice, as a folder and as a zip: anna"):
        graded(find(1))


def test_an_empty_folder_is_refused(students, graded):
    with pytest.raises(ValueError, match="neither folders nor zips"):
        graded(find(1))


def test_attempts_and_hints_come_from_the_progress_file(students, graded):
    one = quick(1)
    path = students("anna", {f"work/{one.file_name}": make_stub(one)})
    workspace = Workspace(path / "work")
    workspace.update("01", hints=2, attempts=5, gave_up=True)
    students("ben", {one.file_name: make_stub(one), "progress.json": "[[["})
    rows = graded(one)
    assert (rows["anna", "01"].attempts, rows["anna", "01"].hints, rows["anna", "01"].gave_up) == (5, 2, True)
    assert (rows["ben", "01"].attempts, rows["ben", "01"].hints, rows["ben", "01"].gave_up) == (None, None, None)


def test_the_command_writes_a_table_and_goes_on_where_it_stopped(students, tmp_path, monkeypatch):
    one, out = find(1), tmp_path / "new" / "grades.csv"
    students("anna", {one.file_name: solved(one)})
    ben = students("ben", {one.file_name: make_stub(one)})
    result = run("grade", students.folder, "--out", out, "--which", "01")
    assert result.exit_code == 0, result.output
    assert "anna" in result.output
    with open(out, newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["student"], first["points"], first["of"]) == ("anna", str(one.points), str(one.points))
    assert (second["student"], second["points"], second["failed"].split("; ")[0]) == ("ben", "0", one.checks[0].name)
    assert first["seed"] == second["seed"]

    (ben / one.file_name).write_text(solved(one))
    calls = []
    monkeypatch.setattr(grading, "grade_file", lambda *a, **k: calls.append(a[1]) or real(*a, **k))
    again = json.loads(run("grade", students.folder, "--out", out, "--which", "01", "--json").stdout)
    assert [path.parent.name for path in calls] == ["ben"]
    assert (again["kept"], again["seed"]) == (1, int(first["seed"]))
    assert [row["points"] for row in again["rows"]] == [one.points] * 2
    assert (
        json.loads(run("grade", students.folder, "--out", out, "--which", "01", "--seed", 5, "--json").stdout)["kept"]
        == (int(first["seed"]) == 5) * 2
    )
    assert len(Gradebook(out).rows) == 2


real = grading.grade_file


def test_what_the_grader_cannot_do_is_said_and_tried_again(students, tmp_path, monkeypatch):
    one, out = find(1), tmp_path / "grades.csv"
    students("anna", {one.file_name: solved(one)})
    with monkeypatch.context() as patch:
        patch.setattr(grading, "grade_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no more processes")))
        result = run("grade", students.folder, "--out", out, "--which", "01", "--seed", 1)
    assert result.exit_code == 1
    assert "1 could not be graded" in result.output
    assert Gradebook(out).rows["anna", "01"].note == "NOT GRADED: OSError: no more processes"
    assert run("grade", students.folder, "--out", out, "--which", "01").exit_code == 0
    assert Gradebook(out).rows["anna", "01"].passed


def test_a_run_that_is_interrupted_keeps_its_rows(students, tmp_path):
    one, out = find(1), tmp_path / "grades.csv"
    for i in range(30):
        students(f"student {i:02}", {one.file_name: f"{make_stub(one)}\n# {i}\n"})
    words = ["grade", str(students.folder), "--out", str(out), "--which", "01"]
    command = [sys.executable, "-m", "exercises", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + 60
        while not (out.exists() and out.read_text().count("\n") > 1) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert "the same command goes on from here" in said
    assert process.returncode == 130
    assert 0 < len(Gradebook(out).rows) < 30


@pytest.mark.parametrize("student", ["anna", "=2+5", "@x", "'quoted'", 'a "b", c', "-", "zoë"])
def test_a_table_is_read_back_and_holds_no_formula(tmp_path, student):
    row = replace(ROW, student=student, note="+1")
    book = Gradebook(tmp_path / "grades.csv")
    book.begin()
    book.add(row)
    assert Gradebook(book.path).rows == {row.key: row}
    with open(book.path, newline="", encoding="utf-8") as file:
        cells = next(csv.DictReader(file))
    assert all(not cells[name].startswith(("=", "+", "-", "@")) for name in ("student", "note"))


def test_a_line_that_was_cut_off_is_passed_over(tmp_path):
    book = Gradebook(tmp_path / "grades.csv")
    book.begin()
    book.add(ROW)
    whole = book.path.read_text()
    for end in range(whole.index("\n") + 1, len(whole) - 1):
        book.path.write_text(whole[:end])
        assert not any(row.sha256 for row in Gradebook(book.path).rows.values())  # it is graded again
    book.path.write_text(whole[:-9])
    again = Gradebook(book.path)
    again.begin()
    again.add(ROW)
    assert Gradebook(book.path).rows == {ROW.key: ROW}


@pytest.mark.parametrize("text", ["name,grade\nanna,1\n", "\0\0\0", "just a text", "a" * 200_000])
def test_another_file_is_not_overwritten(students, tmp_path, text):
    students("anna", {"x": ""})
    out = tmp_path / "list.csv"
    out.write_text(text)
    result = run("grade", students.folder, "--out", out)
    assert result.exit_code == 2
    assert "no table of grades" in result.output
    assert out.read_text() == text


def test_a_table_that_a_spreadsheet_saved_goes_on(tmp_path):
    book = Gradebook(tmp_path / "grades.csv")
    book.begin()
    book.add(ROW)
    text = book.path.read_text()
    book.path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert Gradebook(book.path).rows == {ROW.key: ROW}
    book.path.write_bytes(text.replace("True", "TRUE").encode())
    assert Gradebook(book.path).rows == {ROW.key: ROW}
    book.path.write_text(text.replace(",7,", ",-7,"))  # no seed that a table has
    assert Gradebook(book.path).seed is None


def test_a_grade_that_was_edited_is_not_lost(tmp_path):
    book = Gradebook(tmp_path / "grades.csv")
    book.begin()
    for student in ("anna", "bob"):
        book.add(replace(ROW, student=student))
    edited = book.path.read_text().replace("anna,01,x,3", "anna,01,x,3.5")
    book.path.write_text(edited)
    with pytest.raises(ValueError, match="is not overwritten: line 2 is no grade"):
        Gradebook(book.path)
    assert book.path.read_text() == edited


@pytest.mark.parametrize("command", ["grade", "pack", "export"])
def test_no_output_replaces_a_pipe_or_waits_for_its_reader(students, tmp_path, command, monkeypatch):
    monkeypatch.setenv("EXERCISES_WORK", str(tmp_path / "work"))
    students("anna", {"x": ""})
    out = tmp_path / "out"
    os.mkfifo(out)
    words = {"grade": ["grade", students.folder, "--which"], "pack": ["pack", "gradescope", "--which"]}
    monkeypatch.setattr(
        "exercises.cli._graded", lambda workspace, exercise, seed: grade_trusted(exercise, exercise.target)
    )
    result = run(*words.get(command, ["export"]), "01", "--out", out)
    assert result.exit_code == 2
    assert "out: is not a regular file" in result.output
    assert out.is_fifo()


@pytest.mark.parametrize("command", ["pack", "export"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, command):
    monkeypatch.setenv("EXERCISES_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(
        "exercises.cli._graded", lambda workspace, exercise, seed: grade_trusted(exercise, exercise.target)
    )
    out = tmp_path / "out"
    out.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    words = ["pack", "classroom", "--which"] if command == "pack" else ["export"]
    result = run(*words, "01", "--out", out)
    assert result.exit_code == 2
    assert "out: No space left on device" in result.output
    assert out.read_text() == "old"
    assert not list(tmp_path.glob("*.tmp"))


def test_exercises_are_named_by_numbers_and_ranges():
    assert [e.number for e in chosen("3,01-02")] == [1, 2, 3]
    assert [e.number for e in chosen("all")] == numbers()
    for wrong in ("", "x", "98", "1-", "1,,2"):
        with pytest.raises(ValueError, match="no exercise"):
            chosen(wrong)


def test_the_zip_for_gradescope_grades_a_submission(students, tmp_path):
    """Its own code is run, with the interpreter of the tests in place of the one that setup.sh makes."""
    one = find(1)
    assert run("pack", "gradescope", "--which", "01-02", "--seed", 7, "--out", tmp_path / "a.zip").exit_code == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "source")
        for name in ("setup.sh", "run_autograder"):
            assert archive.getinfo(name).external_attr >> 16 == 0o755
            assert subprocess.run(["bash", "-n", tmp_path / "source" / name], check=False).returncode == 0
        assert b"numpy>=" in archive.read("requirements.txt")
        assert b"pytest" not in archive.read("requirements.txt")
    assert {"moe_numpy/__init__.py", "exercises/__main__.py"} <= set(names)
    assert not [n for n in names if "__pycache__" in n or "/work/" in n]
    (tmp_path / "submission" / "mine").mkdir(parents=True)
    (tmp_path / "submission" / "mine" / one.file_name).write_text(solved(one))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"AUTOGRADER": str(tmp_path), "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "source")}
    subprocess.run(["bash", tmp_path / "source" / "run_autograder"], env=environment, check=True)
    grades = json.loads((tmp_path / "results" / "results.json").read_text())
    assert grades["score"] == one.points
    assert sum(test["max_score"] for test in grades["tests"]) == one.points + find(2).points
    assert "was not handed in" in grades["tests"][-1]["output"]


def test_the_workflow_for_a_classroom_has_a_step_and_points_for_each_exercise(tmp_path):
    out = tmp_path / ".github" / "workflows" / "classroom.yml"
    assert run("pack", "classroom", "--seed", 3, "--out", out).exit_code == 0
    job = yaml.safe_load(out.read_text())["jobs"]["grade"]
    steps = {step["id"]: step["with"] for step in job["steps"] if "id" in step}
    assert list(steps) == [f"ex{n:02}" for n in numbers()]
    for n in numbers():
        assert steps[f"ex{n:02}"]["max-score"] == find(n).points
        assert steps[f"ex{n:02}"]["test-name"] == f"{n:02} {find(n).title}"
    report = job["steps"][-1]
    assert report["with"]["runners"].split(",") == list(steps)
    assert list(report["env"]) == [f"{name.upper()}_RESULTS" for name in steps]


def test_an_unknown_pack_is_refused(tmp_path):
    result = run("pack", "moodle", "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert "gradescope, classroom" in result.output


def test_the_container_copies_what_the_project_has():
    text = (Path(grading.__file__).parent / "files" / "Containerfile").read_text()
    copied = [word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
    root = Path(grading.__file__).parents[2]
    assert [name for name in copied if not (root / name).exists()] == []
