"""Schedules of k and capacity, and splitting idle experts while training."""

from dataclasses import asdict

import numpy as np
import pytest

from moe_numpy.models import ModelConfig
from moe_numpy.moe import recipes
from moe_numpy.training import Run, Trainer, TrainingConfig
from moe_numpy.training.corpus import Corpus, Domain
from moe_numpy.training.reallocation import scheduled, schedules

SMALL = {"d_model": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "context": 16, "d_ff": 8, "num_experts": 6}


@pytest.fixture(scope="module")
def small_corpus():
    rng = np.random.default_rng(0)
    return Corpus([Domain("noise", *(rng.integers(0, 256, n).astype(np.uint8) for n in (4000, 400)))])


def config(**training):
    return TrainingConfig(**{"steps": 12, "batch_size": 4, "warmup": 1, "checkpoint_every": 5} | training)


def trainer(corpus, training, recipe="mixtral", **settings):
    return Trainer(ModelConfig(**SMALL, recipe=recipe, recipe_settings=settings), training, corpus)


@pytest.mark.parametrize(("step", "k"), [(0, 6), (1, 5), (3, 4), (4, 3), (5, 3), (6, 2), (11, 2)])
def test_k_falls_over_the_first_half(step, k):
    assert scheduled(recipes.mixtral().router, config(top_k_from=6), step).selection.k == k


@pytest.mark.parametrize(("step", "factor"), [(0, 3.25), (3, 2.25), (6, 1.25), (9, 1.25)])
def test_the_factor_of_the_capacity_falls_on_a_line(step, factor):
    assert scheduled(recipes.switch().router, config(capacity_from=3.25), step).capacity.factor == pytest.approx(factor)


def test_steps_use_the_schedule_and_the_model_has_its_own_settings_between(small_corpus):
    one = trainer(small_corpus, config(top_k_from=6, steps=4))
    asked = []
    for _ in range(4):
        with schedules(one.model, one.config, one.completed):
            asked.append(one.model.layers[0].feed_forward.router.per_token)
        one.step()
    assert asked == [6, 4, 2, 2]
    assert one.model.layers[0].feed_forward.router.config.selection.k == 2
    other = trainer(small_corpus, config(steps=4))
    assert other.step().loss != trainer(small_corpus, config(top_k_from=6, steps=4)).step().loss


def starve(one):
    """Routers that never choose experts 4 and 5: their rows lose to the opposite rows of others."""
    for i in one.model.routed_layers:
        w = one.model.layers[i].feed_forward.router.weight.data
        w[:] = 0
        w[:4] = 5 * np.random.default_rng(i).standard_normal((4, w.shape[1]))
        w[2:4] = -w[:2]  # the largest of h, -h is never below 0


def test_idle_experts_get_weights_and_moments_of_loaded_ones(small_corpus):
    one = trainer(small_corpus, config(split_every=3, learning_rate=1e-6), "switch", balance=0.0)
    starve(one)
    records = [one.step() for _ in range(3)]
    assert [record.splits for record in records[:2]] == [[], []]
    splits = records[2].splits
    assert {(layer, idle) for layer, idle, _ in splits} == {(i, e) for i in (0, 1) for e in (4, 5)}
    for layer, idle, loaded in splits:
        moe = one.model.layers[layer].feed_forward
        name = f"layers.{layer}.feed_forward.experts.first"
        for array in (moe.experts.first.data, one.optimizer.first[name], one.optimizer.second[name]):
            np.testing.assert_array_equal(array[idle], array[loaded])
            assert np.abs(array[loaded]).max() > 0
        assert not np.array_equal(moe.router.weight.data[idle], moe.router.weight.data[loaded])
    load = np.array(one.step().expert_load)
    assert load[:, 4:].min() > 0


def test_frozen_experts_are_neither_split_nor_overwritten(small_corpus):
    training = config(split_every=3, split_below=0.9, freeze=("*:0,4",))
    one = trainer(small_corpus, training, "switch", balance=0.0)
    before = {name: p.data.copy() for name, p in one.model.named_parameters()}
    splits = [split for _ in range(6) for split in one.step().splits]
    assert splits
    assert not {0, 4} & {e for _, *pair in splits for e in pair}
    for name, p in one.model.named_parameters():
        if p.frozen:
            assert p.data[[0, 4]].tobytes() == before[name][[0, 4]].tobytes(), name


def test_a_state_that_all_experts_share_is_not_split(small_corpus):
    one = trainer(small_corpus, config(split_every=2, split_below=0.9), "remoe")
    assert [split for _ in range(4) for split in one.step().splits]


@pytest.mark.parametrize("stop", [4, 6, 7])
def test_a_resumed_run_splits_as_one_that_went_on(small_corpus, tmp_path, stop):
    training = config(split_every=3, split_below=0.9, steps=9)
    model = ModelConfig(**SMALL, recipe="mixtral")
    whole = Trainer(model, training, small_corpus)
    expected = [whole.step() for _ in range(9)]
    assert any(record.splits for record in expected)
    run = Run.start(tmp_path / "run", model, training)
    first = Trainer(model, training, small_corpus)
    for _ in range(stop):
        run.append_history(asdict(first.step()))
    first.save(run)
    second = Trainer(model, training, small_corpus)
    second.resume(run)
    assert [second.step().splits for _ in range(stop, 9)] == [record.splits for record in expected[stop:]]
    for one, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        np.testing.assert_array_equal(one.data, other.data)


@pytest.mark.parametrize(
    ("training", "recipe", "message"),
    [
        ({"top_k_from": 4}, "expert_choice", "top_k_from=4 needs a recipe of k experts for each token"),
        ({"top_k_from": 9}, "mixtral", "top_k must be between 1 and num_experts=6, got 9"),
        ({"capacity_from": 2.0}, "mixtral", "capacity_from=2.0 needs a recipe of experts with a capacity_factor"),
        ({"split_every": 2}, "soft_moe", "split_every=2 needs layers in which one router chooses among all experts"),
        ({"split_every": 2}, "hierarchical", "split_every=2 needs layers in which one router chooses"),
    ],
)
def test_what_a_recipe_cannot_do_is_refused(small_corpus, training, recipe, message):
    with pytest.raises(ValueError, match=message):
        trainer(small_corpus, config(**training), recipe)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"top_k_from": 0}, "top_k_from must be at least 1, got 0"),
        ({"capacity_from": 0.0}, "capacity_from must be positive, got 0.0"),
        ({"split_every": -1}, "split_every must not be negative, got -1"),
        ({"split_below": 1.0}, "split_below must be above 0 and below 1, got 1.0"),
    ],
)
def test_settings_out_of_range_are_named(training, message):
    with pytest.raises(ValueError, match=message):
        config(**training)
