"""``train --device cuda --ranks N``: what is refused before anything starts, and what is started."""

import sys

import pytest
from typer.testing import CliRunner

from moe_numpy.__main__ import app
from moe_numpy.commands import job, starting_ranks
from moe_numpy.devices import DeviceError
from moe_numpy.models import ModelConfig
from moe_numpy.parallel.launching import End, Place
from moe_numpy.parallel.ledger import Ledger
from moe_numpy.parallel.mpi import ParallelError
from moe_numpy.parallel.nccl import Nccl
from moe_numpy.training import Run, TrainingConfig

TRAIN = ["train", "--device", "cuda", "--ranks", "2"]


@pytest.fixture
def started(monkeypatch):
    """What would have been started; ``started.end`` is how it ends."""

    class Started(list):
        end = End(0)

    calls = Started()

    def run(command, size, environment):
        calls.append((command, size, environment))
        return calls.end

    monkeypatch.setattr(starting_ranks, "run_ranks", run)
    monkeypatch.setattr(starting_ranks, "require_gpus", lambda num_ranks: None)
    monkeypatch.setattr(sys, "argv", ["moe_numpy", *TRAIN])
    return calls


def refused(arguments, words, code=2):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_processes_with_the_same_command_are_started(started, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert CliRunner().invoke(app, TRAIN).exit_code == 0
    ((command, size, environment),) = started
    assert (command, size) == ([sys.executable, "-m", "moe_numpy", *TRAIN], 2)
    assert int(environment["OPENBLAS_NUM_THREADS"]) >= 1


def test_the_command_ends_as_the_ranks_do(started):
    started.end = End(143)
    assert CliRunner().invoke(app, TRAIN).exit_code == 143
    started.end = End(137, "rank 1 was ended by SIGKILL; the other ranks were ended too")
    refused(TRAIN, "error: rank 1 was ended by SIGKILL; the other ranks were ended too", 137)


@pytest.mark.parametrize("error", [DeviceError("device cuda: CuPy is missing"), ParallelError("each rank needs a GPU")])
def test_what_is_missing_is_said_before_anything_starts(started, monkeypatch, error):
    def require(num_ranks):
        raise error

    monkeypatch.setattr(starting_ranks, "require_gpus", require)
    refused(TRAIN, str(error))
    assert not started


def test_parts_of_a_process_are_for_the_cpu(started):
    refused([*TRAIN, "--deterministic"], "--deterministic needs --device cpu")
    assert not started


def test_a_wrong_setting_is_said_once_and_not_by_every_rank(started):
    refused([*TRAIN, "--recipe", "nonesuch"], "nonesuch")
    assert not started


def test_a_run_continues_on_its_own_device(started, tmp_path):
    Run.start(tmp_path / "run", ModelConfig(), TrainingConfig(device="cuda"))
    assert CliRunner().invoke(app, ["train", "--resume", "--out", str(tmp_path / "run"), "--ranks", "2"]).exit_code == 0
    assert len(started) == 1


def test_a_rank_that_was_started_starts_no_others(started, monkeypatch, tmp_path):
    for name, value in (("RANK", "1"), ("RANKS", "2"), ("MEETING", str(tmp_path))):
        monkeypatch.setenv(f"MOE_NUMPY_{name}", value)
    assert Place.own() == Place(1, 2, tmp_path)
    starting_ranks.start_ranks(2, lambda: "cuda")
    assert not started
    with pytest.raises(ParallelError, match="--ranks 3"):
        starting_ranks.start_ranks(3, lambda: "cuda")


@pytest.mark.parametrize("error", [None, ValueError("a mistake")])
def test_ranks_work_together_and_end_together(monkeypatch, tmp_path, error, capsys):
    ended = []

    class WithoutGpus(Nccl):
        def __init__(self):
            self.rank, self.size, self.ledger = 0, 2, Ledger(2)

        def exchange(self, rows, send, receive, kind):
            return rows  # of two ranks that are alike

        def abort(self, code):
            ended.append(code)

    monkeypatch.setattr(Nccl, "among", lambda place: WithoutGpus())
    monkeypatch.setattr(Place, "own", lambda: Place(0, 2, tmp_path))

    def work(communicator):
        if error is not None:
            raise error
        return communicator.size

    if error is None:
        assert job.on_ranks(work, device=lambda: "cuda") == 2
        assert ended == []
    else:
        with pytest.raises(ValueError, match="a mistake"):
            job.on_ranks(work, device=lambda: "cuda")
        assert ended == [1]
        assert "a mistake" in capsys.readouterr().err
