"""A training run on several ranks, in parts of one process: losses of one rank, experts that move between two steps."""

from dataclasses import replace

import numpy as np
import pytest
from job_of_tiny_runs import MODEL, TRAINING, corpus

from moe_numpy.parallel import Alone, Placement
from moe_numpy.parallel.parts import PartStopped, run_parts
from moe_numpy.training import Trainer
from moe_numpy.training.evaluation import evaluate
from moe_numpy.training.ranks import Ranks

SKEWED = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0, 0]


def trained(communicator, name="mixtral", between=None, **settings):
    """The losses of three steps and of an evaluation; ``between`` is called after the first step."""
    config = replace(TRAINING, **settings)
    trainer = Trainer(replace(MODEL, recipe=name), config, corpus(), ranks=Ranks(communicator))
    losses = []
    for step in range(config.steps):
        if step == 1 and between is not None:
            between(trainer)
        losses.append(trainer.step().loss)
    windows = trainer.corpus.validation_windows(MODEL.context, limit=5)
    result = evaluate(trainer.model, windows, 1, batch_size=3, ranks=trainer.ranks)
    return [*losses, result.loss], result.expert_load


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("name", ["mixtral", "shazeer_2017", "deepseek_v3", "soft_moe"])
def test_losses_and_evaluation_are_those_of_one_rank(name, num_ranks):
    losses, load = trained(Alone(), name)
    ours, our_load = run_parts(Alone(), num_ranks, lambda ranks: trained(ranks, name))
    np.testing.assert_allclose(ours, losses, rtol=1e-6)
    np.testing.assert_array_equal(our_load, load)


def test_experts_that_move_change_no_bit():
    """Without replicas the rows of an expert are the same, wherever it is."""

    def move(trainer):
        moved = trainer.place_by_load([SKEWED])
        assert moved["layers.0.feed_forward"] == pytest.approx(0.5 * 4)  # the largest expert alone
        (placement,) = {holding.placement for holding in trainer.ranks.holdings.values()}
        assert placement != Placement.even(8, 4)

    stay = run_parts(Alone(), 4, trained)
    gone = run_parts(Alone(), 4, lambda ranks: trained(ranks, between=move))
    assert stay[0] == gone[0]


@pytest.mark.parametrize("name", ["mixtral", "longcat"])
def test_replicas_change_nothing_but_the_order_of_sums(name):
    def replicate(trainer):
        load = SKEWED + [0.0] * (trainer.model.num_routes - 8)
        ratio = trainer.place_by_load([load], places=4)["layers.0.feed_forward"]
        assert ratio < 1.1
        (placement,) = {holding.placement for holding in trainer.ranks.holdings.values()}
        assert placement.counts.max() > 1

    losses, _ = trained(Alone(), name)
    ours, _ = run_parts(Alone(), 4, lambda ranks: trained(ranks, name, between=replicate))
    np.testing.assert_allclose(ours, losses, rtol=1e-6)


def test_experts_move_by_themselves():
    def work(ranks):
        trainer = Trainer(MODEL, replace(TRAINING, rebalance_every=2, places=3), corpus(), ranks=Ranks(ranks))
        trainer.train(lambda record: None)
        return {holding.placement for holding in trainer.ranks.holdings.values()}

    (placement,) = run_parts(Alone(), 4, work)
    assert placement != Placement.even(8, 4)


def test_more_ranks_than_sequences_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at least the number of ranks, 7, got 6"):
        run_parts(Alone(), 7, lambda ranks: Trainer(MODEL, TRAINING, corpus(), ranks=Ranks(ranks)))


def test_a_part_that_fails_ends_all():
    def work(ranks):
        if ranks.rank == 2:
            raise ValueError("of rank 2")
        with pytest.raises(PartStopped):
            Ranks(ranks).first_of(0)
        raise PartStopped("as others would")

    with pytest.raises(ValueError, match="of rank 2"):
        run_parts(Alone(), 3, work)


def test_what_cannot_be_printed_ends_all_ranks_after_the_same_step():
    def work(ranks):
        def show(record):
            if ranks.rank == 0 and record.step == 2:
                raise BrokenPipeError

        trainer = Trainer(MODEL, replace(TRAINING, steps=9), corpus(), ranks=Ranks(ranks))
        with pytest.raises(BrokenPipeError if ranks.rank == 0 else PartStopped):
            trainer.train(show)
        return trainer.completed

    assert run_parts(Alone(), 3, work) == 2
