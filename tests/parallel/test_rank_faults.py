"""Jobs of mpiexec: a rank that is killed, and signals."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from moe_numpy.commands.starting_ranks import mpiexec
from moe_numpy.parallel import Alone
from moe_numpy.parallel.mpi import ParallelError
from moe_numpy.parallel.parts import run_parts
from moe_numpy.training import Run, Trainer, list_checkpoints, load_checkpoint
from moe_numpy.training.ranks import Ranks

SETTINGS = [
    "--deterministic", "--parts=3", "--d-model=8", "--num-layers=1", "--num-experts=5", "--d-ff=4", "--context=8",
    "--batch-size=4", "--checkpoint-every=2", "--steps=100000", "--text=text.txt", "--out=run",
]  # fmt: skip
TRAIN = [sys.executable, "-m", "moe_numpy", "train"]
LONGEST = 100  # seconds until the first steps


def _why_no_mpi():
    try:
        mpiexec()
    except ParallelError as error:
        return str(error)
    return "" if importlib.util.find_spec("mpi4py") else "mpi4py is not installed"


pytestmark = pytest.mark.skipif(bool(_why_no_mpi()), reason=_why_no_mpi())


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the cat sat on the mat, and the dog did not. " * 30)


def start(*command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(folder, step, job):
    end = time.monotonic() + LONGEST
    while not any(done >= step for done in list_checkpoints(folder)):
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.01)


def ranks_below(process):
    """The processes without children of their own below a process."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in table.splitlines()]
    below = [pid for pid, parent in parents if parent == process]
    return [rank for child in below for rank in ranks_below(child)] if below else [process]


def losses_of_parts(run, num_steps, resume):
    """Of the next steps, with all parts in this process."""

    def work(communicator):
        trainer = Trainer(run.model_config, run.training_config, run.corpus(), ranks=Ranks(communicator))
        if resume:
            trainer.resume(run)
        return [trainer.step().loss for _ in range(num_steps)]

    return run_parts(Alone(), run.training_config.parts, work)


def test_a_killed_rank_ends_all_and_the_run_continues_bit_for_bit_on_another_number_of_ranks(tmp_path):
    job = start(*TRAIN, *SETTINGS, "--ranks=2")
    wait_for_step(tmp_path / "run", 4, job)
    os.kill(max(ranks_below(job.pid)), signal.SIGKILL)
    out, err = job.communicate(timeout=60)
    step = list_checkpoints(tmp_path / "run")[-1]
    assert job.returncode == 128 + signal.SIGKILL
    assert re.fullmatch(
        rf"error: rank [01] was killed by SIGKILL, and all ranks have ended; run keeps the checkpoint of step {step}\. "
        r"Continue with: python -m moe_numpy train --resume --out run --ranks 2\n",
        err,
    )
    assert "BAD TERMINATION" not in out
    run = Run.open(tmp_path / "run")
    undisturbed = losses_of_parts(run, step + 2, resume=False)
    assert [record["loss"] for record in run.history()][:step] == undisturbed[:step]
    assert losses_of_parts(run, 2, resume=True) == undisturbed[step:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_ranks_after_the_same_step_with_all_saved(tmp_path, number):
    command = [mpiexec(), "-n", "2", *TRAIN] if number == signal.SIGINT else [*TRAIN, "--ranks=2"]
    job = start(*command, *SETTINGS)
    wait_for_step(tmp_path / "run", 2, job)
    job.send_signal(number)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 128 + number, err
    step = list_checkpoints(tmp_path / "run")[-1]
    assert len(Run.open(tmp_path / "run").history()) == step
    assert f"Stopped after step {step} of 100000, all saved. Continue with:" in out
    assert "python -m moe_numpy train --resume --out run --ranks 2" in out
    load_checkpoint(tmp_path / "run")
