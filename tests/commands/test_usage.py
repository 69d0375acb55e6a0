"""Wrong usage is one line with exit code 2, whatever is wrong; and signals end a command in order."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import benchmarks.__main__ as benchmarks
import exercises.cli as exercises
from moe_numpy.commands.usage import exit_on_signals
from moe_numpy.training import Run, Trainer, complete
from moe_numpy.training.checkpoints import list_checkpoints


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "--out", ""], "--out: the path is empty, got ''; see python -m moe_numpy train --help"),
        (["train", "--out="], "--out: the path is empty, got ''"),
        (["train", "--steps", "1e3"], "'1e3'"),
        (["train", "--steps=1e3"], "'1e3'"),
        (["train", "--seed", "-1"], "--seed"),
        (["train", "--steps"], "--steps"),
        (["train", "--learning-rate", "½\x1b[31m"], "--learning-rate"),
        (["train", "stray\nword"], "stray"),
        (["--nothing"], "--nothing"),
        (["nothing"], "nothing"),
        (["generate", "run"], "prompt"),
        (["gradcheck", "nothing*"], "nothing*"),
        (["bench", "nothing"], "nothing"),
        (["bench", "--rounds", "0"], "--rounds"),
    ],
)
def test_wrong_usage_is_one_line(cli, arguments, told):
    result = cli(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert "\x1b" not in result.stderr
    assert told in result.stderr.replace("moe_numpy.__main__", "python -m moe_numpy").replace(
        "root", "python -m moe_numpy"
    )


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["--nothing"], ["check", "--seed", "x"], ["hint"], ["export", "--a"]]
)
def test_of_the_exercises_too(arguments):
    result = CliRunner().invoke(exercises.app, arguments)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)


def test_of_the_benchmarks_too():
    result = CliRunner().invoke(benchmarks.app, ["--threads", "0"])
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)


def test_without_a_command_there_is_help(cli):
    result = cli()
    assert "Usage" in result.stdout
    assert result.stderr == ""


def test_too_little_memory_is_one_line(cli):
    result = cli("bench", "--shape", "999999999999,8,8,2,1")
    assert result.exit_code == 1
    assert "Unable to allocate" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def handlers(monkeypatch):
    """The command line's handlers, as its entry point sets them."""
    for name in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # set back afterwards
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    exit_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signal_while_evaluating(monkeypatch):
    """Deliver a signal in the n-th evaluation, counted from 0."""

    def deliver(number, at):
        real, calls = complete.evaluate, iter(range(99))

        def evaluate(*arguments, **settings):
            if next(calls) == at:
                os.kill(os.getpid(), number)
            return real(*arguments, **settings)

        monkeypatch.setattr(complete, "evaluate", evaluate)

    return deliver


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_before_the_first_step_leaves_nothing(cli, tiny, handlers, signal_while_evaluating, name, code):
    signal_while_evaluating(getattr(signal, name), 0)
    assert cli(*tiny, "--out", "deep/run").exit_code == code
    assert not Path("deep").exists()


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_in_the_last_evaluation_loses_nothing(
    cli, tiny, trained, handlers, signal_while_evaluating, name, code
):
    signal_while_evaluating(getattr(signal, name), 6)  # one before training and five on the way
    result = cli(*tiny, "--out", "run")
    assert result.exit_code == code
    assert "Stopped after step 6 of 6, all saved. Continue with:" in result.stdout
    assert list_checkpoints(Path("run"))[-1] == 6
    assert cli("train", "--resume", "--out", "run").exit_code == 0
    ours, theirs = (json.loads((Path(folder) / "summary.json").read_text()) for folder in ("run", trained))
    assert ours["val_loss"] == theirs["val_loss"]


def test_a_second_signal_waits_for_the_cleaning_up(cli, tiny, handlers, monkeypatch):
    def signalled_twice(self):
        if self.completed == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self)

    def signalled_again(self):
        os.kill(os.getpid(), signal.SIGHUP)
        discard(self)

    step, discard = Trainer.step, Run.discard_if_untrained
    monkeypatch.setattr(Trainer, "step", signalled_twice)
    monkeypatch.setattr(Run, "discard_if_untrained", signalled_again)
    assert cli(*tiny, "--out", "run", "--checkpoint-every", 100).exit_code == 143
    assert not Path("run").exists()  # no checkpoint yet


def test_a_hangup_that_is_ignored_stays_ignored(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    exit_on_signals()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("columns", ["0", "1", "12", "x"])
def test_a_narrow_terminal_is_no_error(cli, trained, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    shutil.copytree(trained, "run")
    assert cli("inspect", "run").exit_code == 0


def test_unknown_kernels_are_refused_before_anything_runs(refused, monkeypatch):
    monkeypatch.setenv("MOE_NUMPY_KERNELS", "fast")
    assert refused("recipes", "mixtral") == "MOE_NUMPY_KERNELS must be one of numpy, numba, got 'fast'\n"


@pytest.mark.parametrize("code", [0, 3])
def test_a_recipe_that_leaves_python_is_refused(refused, tiny, code):
    Path("own.py").write_text(f"import sys\n\n\ndef leave():\n    sys.exit({code})\n")
    assert "leave failed: SystemExit" in refused(*tiny, "--recipe", "own.py:leave")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    "arguments",
    [
        ["recipes", "mixtral"],
        ["count", "--json"],
        ["--help"],
        ["train", "--out", "run"],
        ["generate", "trained", "the"],
    ],
)
def test_a_full_disk_behind_stdout_is_one_line(tiny, trained, arguments):
    os.symlink(trained, "trained")
    arguments = [*tiny, *arguments[1:]] if arguments[0] == "train" else arguments
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "moe_numpy", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")
    assert not Path("run").exists()


IN_A_DESTRUCTOR = """
class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        [i for i in range(10)]

Thing()
time.sleep(20)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("then", "code"),
    [(IN_A_DESTRUCTOR, 128 + signal.SIGTERM), ("os.kill(os.getpid(), signal.SIGINT); time.sleep(20)", -signal.SIGINT)],
    ids=["a signal that a destructor swallows", "Ctrl-C before a command runs"],
)
def test_a_signal_ends_the_process_in_silence(then, code):
    program = (
        f"import os, signal, time; from moe_numpy.commands.usage import exit_on_signals\nexit_on_signals()\n{then}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps the folder")
def test_a_current_folder_that_is_deleted_is_named(refused, monkeypatch):
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    Path("../gone").rmdir()
    assert "the current folder: No such file or directory" in refused("course", "mine")


@pytest.mark.parametrize("arguments", ["recipes mixtral", "generate trained the --tokens 3000", "train --help"])
def test_a_reader_that_leaves_hears_nothing(trained, arguments):
    os.symlink(trained, "trained")
    command = f"{sys.executable} -m moe_numpy {arguments} | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) in ((0, ""), (1, ""))


@pytest.mark.parametrize(("arguments", "code"), [("count --json", 0), ("--version", 0), ("recipes zz", 2), ("--zz", 2)])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_error(arguments, code, closed):
    command = f"{sys.executable} -m moe_numpy {arguments} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_figures_that_matplotlib_refuses_are_a_note(trained):
    command = [sys.executable, "-m", "moe_numpy", "inspect", trained, "--json"]
    environment = os.environ | {"MPLBACKEND": "nonsense"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "note: no figures: " in done.stderr
    assert json.loads(done.stdout)["figures"] == []
