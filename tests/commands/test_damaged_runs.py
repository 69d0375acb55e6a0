"""Runs that are damaged, foreign, in use or of unusual models: one line each, never a traceback."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moe_numpy.training import Run, Trainer, list_checkpoints, load_checkpoint, save_checkpoint
from moe_numpy.training.lock import locked


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    monkeypatch.setattr("moe_numpy.commands.train.save_run_figures", lambda run, summary: [])


@pytest.fixture
def run(trained):
    shutil.copytree(trained, "run")
    return Path("run")


def test_a_finished_run_trains_further(cli, refused, run):
    result = cli("train", "--resume", "--out", run, "--steps", 9)
    assert result.exit_code == 0, result.output
    assert "Continuing after step 6 of 9." in result.stdout
    assert Run.open(run).summary()["steps"] == 9
    assert [record["step"] for record in Run.open(run).history()] == list(range(1, 10))
    assert cli("train", "--resume", "--out", run).exit_code == 0
    assert "--steps 5 is less than the 9 completed" in refused("train", "--resume", "--out", run, "--steps", 5)
    assert Run.open(run).training_config.steps == 9


def test_a_refused_extension_changes_nothing(refused, run):
    (run / "history.jsonl").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert "history.jsonl ends after step 0" in refused("train", "--resume", "--out", run, "--steps", 9)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_rewind_that_is_refused_changes_nothing(refused, run):
    (run / "validation.json").write_text('{"losses": [null]}')
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert "validation.json is damaged" in refused("train", "--resume", "--from-step", 4, "--out", run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_run_in_use_is_refused(refused, run):
    with locked(run):
        assert "run: is in use: another process trains this run" in refused("train", "--resume", "--out", run)


def test_leftovers_of_a_crash_are_removed(cli, run):
    (run / "checkpoint-000006.safetensors.tmp").write_bytes(b"half")
    assert cli("train", "--resume", "--out", run).exit_code == 0
    assert not list(run.glob("*.tmp"))


@pytest.mark.parametrize("file", ["history.jsonl", "validation.json", "config.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\n\n", b"[[1]]\n\n", b'{"step": 1}\n\n', b"null\n\n"])
def test_damaged_files_are_named(cli, run, file, content):
    (run / file).write_bytes(content)
    for command in (["train", "--resume", "--out", run], ["inspect", run], ["generate", run, "a", "--tokens", 1]):
        result = cli(*command)
        assert result.exit_code in (0, 2)
        assert result.exit_code == 0 or file in result.stderr


def test_inspect_without_a_history(cli, run, monkeypatch):
    (run / "history.jsonl").unlink()
    (run / "load_over_training.png").unlink()
    result = cli("inspect", run)
    assert result.exit_code == 0, result.output
    assert "Load while training" not in result.stdout
    assert "load_over_training.png" not in result.stdout


def test_inspect_where_figures_cannot_be_written(cli, run):
    (run / "expert_by_byte.png").mkdir()
    result = cli("inspect", run)
    assert result.exit_code == 0, result.output
    assert "note: a figure was not saved: run/expert_by_byte.png: Is a directory" in result.stderr
    assert "expert_load.png" in result.stdout
    assert not list(run.glob("*.tmp"))


def test_figures_without_matplotlib(cli, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "moe_numpy.plots", None)
    monkeypatch.delattr("moe_numpy.plots", raising=False)
    result = cli("inspect", run)
    assert result.exit_code == 0, result.output
    assert "note: no figures: " in result.stderr


def test_inspect_refuses_text_that_has_changed(refused, run):
    config = json.loads((run / "config.json").read_text())
    shutil.copy(config["text"][0], "words.txt")
    with open("words.txt", "a") as file:
        file.write("more")
    config["text"][0] = str(Path("words.txt").resolve())
    (run / "config.json").write_text(json.dumps(config))
    assert "the text has changed since run began" in refused("inspect", run)


def test_weights_that_are_not_finite(cli, run):
    checkpoint = load_checkpoint(run)
    checkpoint.arrays["model.norm.weight"][:] = np.nan
    save_checkpoint(run, 6, checkpoint.arrays, checkpoint.meta)
    for command, expected in ((["generate", run, "a"], "non-finite logit"), (["inspect", run], "non-finite value")):
        result = cli(*command)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
        assert result.stderr.startswith("error: ")
        assert expected in result.stderr


def test_soft_moe_is_not_called_dense(cli, refused, tiny):
    assert cli(*tiny, "--recipe", "soft_moe", "--out", "soft").exit_code == 0
    assert "soft has Soft MoE layers: every expert takes a part of every byte" in refused("inspect", "soft")


def test_layers_without_an_assignment_are_trained_and_inspected(cli, tiny, monkeypatch):
    original = Trainer.step

    def without_routing(self):
        for layer in self.model.layers:
            layer.feed_forward.router.weight.data[:] = 0
        return original(self)

    monkeypatch.setattr(Trainer, "step", without_routing)
    assert cli(*tiny, "--recipe", "remoe", "--steps", 1, "--out", "idle").exit_code == 0
    assert Run.open(Path("idle")).history()[0]["expert_load"] == [[0, 0, 0, 0]] * 2


def test_expert_choice_has_no_run_without_a_limit(refused, tiny):
    message = refused(*tiny, "--recipe", "expert_choice", "--capacity-factor", 0)
    assert "capacity_factor must be in (0, num_experts=4], got 0" in message


def test_a_router_without_a_gradient_is_told(cli, tiny):
    assert "no gradient of the task reaches the router" in cli(*tiny, "--steps", 1, "--top-k", 1).stderr
    assert cli(*tiny, "--steps", 1, "--top-k", 2).stderr == ""


def test_a_summary_of_what_was_read_and_left_out(cli, tiny):
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("words " * 100)
    Path("notes/latin\x1b[31m.txt").write_bytes("größer ".encode("latin-1") * 90)
    Path("notes/picture.png").write_bytes(b"\x89PNG\0")
    Path("notes/.git").mkdir()
    output = cli(*tiny, "--text", "notes", "--steps", 1).stdout
    folder = Path("notes").resolve()
    assert "notes: 1 files, 600 bytes; left out (635 bytes):" in output
    assert f"  not UTF-8: {folder}/latin[31m.txt\n" in output
    assert f"  holds NUL: {folder}/picture.png\n" in output
    assert f"  a hidden folder: {folder}/.git\n" in output
    assert output.index("left out") < output.index("step 1/1")


@pytest.mark.usefixtures("drawn")
def test_odd_names_are_drawn_and_printed_as_they_are(cli, tiny, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(Path(tiny[-1]).parent)
    names = ["a$b$c", "漢字", "tab\tand\nline", "\x1b[31mred", "{x}_[b]"]
    for name in names:
        Path(name).write_text("words and more words " * 60)
    run = Path(f"run {' '.join(names)}")
    texts = [part for name in names for part in ("--text", name)]
    result = cli(*tiny, *texts, "--steps", 1, "--out", run)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert (run / "expert_by_domain.png").exists()
    assert cli("inspect", run).exit_code == 0


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint(cli, tiny, monkeypatch):
    real = os.fsync

    def full(descriptor):
        if list_checkpoints(Path("run")):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    result = cli(*tiny, "--out", "run", "--checkpoint-every", 3)
    assert result.exit_code == 1
    assert "error: run/" in result.stderr
    assert "No space left on device" in result.stderr
    assert "run keeps the checkpoint of step 3" in result.stderr


def test_too_little_memory_leaves_nothing(cli, tiny, monkeypatch):
    def no_room(self):
        raise MemoryError

    monkeypatch.setattr(Trainer, "step", no_room)
    result = cli(*tiny, "--out", "deep/run")
    assert (result.exit_code, result.stderr) == (1, "error: out of memory; there is no checkpoint yet\n")
    assert not Path("deep").exists()


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_save_and_say_how_to_go_on(cli, tiny, monkeypatch, name, code):
    original = Trainer.step

    def signalled(self):
        if self.completed == 2:
            os.kill(os.getpid(), getattr(signal, name))
        return original(self)

    monkeypatch.setattr(Trainer, "step", signalled)
    result = cli(*tiny, "--out", "run", "--checkpoint-every", 100)
    assert result.exit_code == code
    assert "Stopped after step 3 of 6, all saved" in result.stdout
    assert list_checkpoints(Path("run")) == [3]


def test_a_closed_pipe_loses_no_step(tiny):
    command = [sys.executable, "-m", "moe_numpy", *tiny, "--out", "run", "--checkpoint-every", "100", "--steps", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "step" not in process.stdout.readline():
            pass
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert list_checkpoints(Path("run"))[-1] == len(Run.open(Path("run")).history())


def test_versions(cli):
    result = cli("--version")
    assert result.exit_code == 0
    assert f"numpy {np.__version__}" in result.stdout
    assert result.stdout.startswith("moe_numpy ")


def test_the_example_of_gradcheck_matches(cli):
    words = " ".join(cli("gradcheck", "--help").stdout.replace("│", " ").split())
    (example,) = re.findall(r"matches this \((.*?)\)", words)
    assert cli("gradcheck", example).exit_code == 0
