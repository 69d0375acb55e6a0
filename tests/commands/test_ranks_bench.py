"""python -m benchmarks.ranks: the layer on several ranks is that on one, and what is printed."""

import json

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import ranks
from benchmarks.layer import Shape
from benchmarks.place import Place
from moe_numpy.parallel import Alone
from moe_numpy.parallel.parts import run_parts

SHAPE = Shape(24, 8, 6, 4, 2)


@pytest.fixture
def in_one_process(monkeypatch):
    """Ranks as parts of this process."""
    monkeypatch.setattr(ranks, "start_ranks", lambda *arguments: None)
    monkeypatch.setattr(ranks, "on_ranks", lambda work, device: run_parts(Alone(), 2, work))


def run(*arguments):
    app = typer.Typer()
    app.command()(ranks.main)
    return CliRunner().invoke(app, ["--shape", "24,8,6,4,2", "--rounds", "1", *arguments])


def test_the_row_has_both_times_and_the_answers_agree(in_one_process):
    result = run("--json")
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    assert row["speedup"] == pytest.approx(row["one_rank_ms"] / row["all_ranks_ms"])
    assert (row["shape"], row["ranks"], row["dtype"]) == (str(SHAPE), 2, "float32")
    assert row["error"] < 1e-6


def test_for_people_it_is_a_table(in_one_process):
    names, row = run().stdout.splitlines()
    assert names.split()[-1] == "speedup"
    assert row.startswith(str(SHAPE))


def test_answers_that_differ_are_refused(in_one_process, monkeypatch):
    monkeypatch.setattr(ranks, "difference", lambda found, expected: 0.5)
    result = run()
    assert result.exit_code == 1
    assert "the answers of 2 ranks differ from those of one by 5.0e-01 of their norm" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "tpu"), "--device must be one of cpu, cuda, got 'tpu'"),
        (("--ranks", "25"), "T must be at least the number of ranks, 25, got 24"),
        (("--shape", "4,3"), "shape must be T,d,f,E,k"),
    ],
)
def test_wrong_settings_are_named(in_one_process, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_gradients_are_those_of_one_rank():
    """Of the dense part summed, of experts where they are."""
    one = ranks.Step(Alone(), SHAPE, Place(), slice(0, SHAPE.T))
    one()

    def on_rank(communicator):
        own = slice(0, 12) if communicator.rank == 0 else slice(12, 24)
        step = ranks.Step(communicator, SHAPE, Place(), own)
        step()
        router = step.layer.router.weight.grad
        assert abs(router - one.layer.router.weight.grad).max() < 1e-5
        held = slice(0, 2) if communicator.rank == 0 else slice(2, 4)
        assert abs(step.layer.experts.down.grad - one.layer.experts.down.grad[held]).max() < 1e-5
        return True

    assert run_parts(Alone(), 2, on_rank)
