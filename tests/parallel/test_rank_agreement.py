"""What ranks must have in common, errors that all of them raise, and who says so."""

import time
from dataclasses import replace

import numpy as np
import pytest
import typer

from moe_numpy.commands.job import on_ranks
from moe_numpy.commands.output import refuse
from moe_numpy.models import ModelConfig
from moe_numpy.parallel import Alone
from moe_numpy.parallel.collectives import failing_together, gather_texts, require_equal
from moe_numpy.parallel.parts import run_parts
from moe_numpy.training import Corpus, Domain, Trainer, TrainingConfig
from moe_numpy.training.ranks import Ranks

MODEL = ModelConfig(d_model=8, num_layers=1, num_heads=1, num_kv_heads=1, d_ff=4, num_experts=2, context=8)
TEXT = np.frombuffer(b"some text " * 30, np.uint8)
CORPUS = Corpus([Domain("a", TEXT, TEXT)])
CONFIG = TrainingConfig(steps=2, warmup=1, batch_size=5)


def on_each(num_ranks, work):
    """What ``work`` returns on each rank."""
    results = {}

    def keep(communicator):
        results[communicator.rank] = work(communicator)

    run_parts(Alone(), num_ranks, keep)
    return [results[rank] for rank in range(num_ranks)]


def test_texts_of_all_ranks():
    texts = ["", "größer", "x" * 1000]
    assert on_each(3, lambda communicator: gather_texts(communicator, texts[communicator.rank], "text")) == [texts] * 3


def test_every_difference_is_named_with_the_ranks_that_have_it():
    described = [
        {"numpy": "2.4.6", "seed": 0, "recipe": "mixtral"},
        {"numpy": "2.4.6", "seed": 1, "recipe": "mixtral", "numba": "0.68.1"},
        {"numpy": "2.4.5", "seed": 1, "recipe": "mixtral"},
    ]

    def told(communicator):
        with pytest.raises(ValueError, match="ranks must not differ") as caught:
            require_equal(communicator, described[communicator.rank])
        return str(caught.value)

    message = (
        "ranks must not differ: numpy is '2.4.6' on ranks 0, 1, '2.4.5' on rank 2; seed is 0 on rank 0, 1 on ranks 1, "
        "2; numba is not there on ranks 0, 2, '0.68.1' on rank 1"
    )
    assert on_each(3, told) == [message] * 3
    on_each(3, lambda communicator: require_equal(communicator, described[0]))


@pytest.mark.parametrize(
    ("model", "config", "text", "named"),
    [
        (MODEL, replace(CONFIG, seed=3), TEXT, "training.seed is 0 on rank 0, 3 on rank 1"),
        (replace(MODEL, d_ff=8), CONFIG, TEXT, "model.d_ff is 4 on rank 0, 8 on rank 1"),
        (MODEL, CONFIG, TEXT[1:], "text is '[0-9a-f]{64}' on rank 0, '[0-9a-f]{64}' on rank 1"),
    ],
    ids=["seed", "model", "text"],
)
def test_ranks_that_differ_do_not_train(model, config, text, named):
    settings = [(MODEL, CONFIG, CORPUS), (model, config, Corpus([Domain("a", text, TEXT)]))]

    def start(communicator):
        with pytest.raises(ValueError, match=f"ranks must not differ: {named}$"):
            Trainer(*settings[communicator.rank], ranks=Ranks(communicator))

    on_each(2, start)


def test_an_error_of_one_disk_is_raised_on_all_ranks():
    def write(communicator, full):
        with failing_together(communicator, "test"):
            if communicator.rank == full:
                raise OSError(28, "No space left on device", "shard")

    def work(communicator):
        write(communicator, None)
        with pytest.raises(OSError, match="No space left on device") as caught:
            write(communicator, 1)
        return caught.value.errno, caught.value.filename

    assert on_each(3, work) == [(28, "shard")] * 3


def test_what_all_ranks_refuse_is_said_once(capsys):
    with pytest.raises(typer.Exit) as caught:
        on_ranks(lambda communicator: refuse("no"), lambda: 3)
    assert (caught.value.exit_code, capsys.readouterr().err) == (2, "error: no\n")


def test_what_another_rank_alone_refuses_is_said(capsys):
    def work(communicator):
        if communicator.rank == 1:
            refuse("the disk is full", exit_code=1)
        gather_texts(communicator, "", "waiting")

    with pytest.raises(typer.Exit) as caught:
        on_ranks(work, lambda: 3)
    assert (caught.value.exit_code, capsys.readouterr().err) == (1, "error: the disk is full\n")


def test_an_error_of_one_rank_ends_all():
    def work(communicator):
        if communicator.rank == 2:
            raise KeyError("unexpected")
        gather_texts(communicator, "", "waiting")

    with pytest.raises(KeyError, match="unexpected"):
        run_parts(Alone(), 3, work)


class Slow:
    """A rank that takes its time before every exchange."""

    def __init__(self, communicator):
        self._communicator = communicator
        self.rank, self.size, self.ledger = communicator.rank, communicator.size, communicator.ledger

    def exchange(self, *what):
        if self.rank == 1:
            time.sleep(0.002)
        return self._communicator.exchange(*what)

    def begin(self, *what):
        return self._communicator.begin(*what)


def test_a_slow_rank_changes_nothing():
    def work(communicator):
        trainer = Trainer(MODEL, CONFIG, CORPUS, ranks=Ranks(communicator))
        return [trainer.step().loss for _ in range(2)]

    assert on_each(2, lambda communicator: work(Slow(communicator))) == on_each(2, work)
