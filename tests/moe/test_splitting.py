"""Experts that become copies of loaded ones."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import MoE, make_layer, recipes
from moe_numpy.moe.splitting import arrays_of_experts, idle_and_loaded, move_apart, split

LOADS = arrays(np.float64, st.integers(1, 9), elements=st.floats(0, 1))


@given(load=LOADS, below=st.floats(0.01, 0.9))
@example(np.array([0.75, 0.25, 0.25, 0.25, 0.25]), 0.75)
def test_idle_experts_are_paired_with_loaded_ones(load, below):
    pairs = idle_and_loaded(load, below)
    assert {e for e, _ in pairs} == set(np.flatnonzero(load < below * load.mean()).tolist())
    assert len({e for e, _ in pairs}) == len(pairs)
    for number, (_, loaded) in enumerate(pairs):  # never one that is idle and has not been given tokens yet
        assert load[loaded] >= below * load.mean() or loaded in {e for e, _ in pairs[:number]}


@pytest.mark.parametrize("load", [[0.0, 1, 1, 1]])
def test_one_of_which_half_was_taken_is_not_idle(load):
    assert idle_and_loaded(np.array(load), 0.75) == [(0, 1)]


def test_by_hand():
    assert idle_and_loaded(np.array([0.0, 6, 1, 0, 1]), 0.5) == [(0, 1), (3, 0)]
    assert idle_and_loaded(np.array([0.0, 0, 0]), 0.5) == []
    assert idle_and_loaded(np.array([1.0, 1, 1]), 0.5) == []


def layer_of(recipe):
    return make_layer(recipe, 6, 4, 5, rng=np.random.default_rng(0), dtype=np.float64)


def test_every_array_with_an_entry_for_each_expert_is_found():
    layer = layer_of(recipes.shazeer_2017(top_k=1))
    assert set(arrays_of_experts(layer)) == {
        *(f"experts.{name}" for name in ("first", "first_bias", "second", "second_bias")),
        "router.weight",
        "router.noise_weight",
    }
    assert all(len(tensor.data) == 5 for tensor in arrays_of_experts(layer).values())
    balanced = MoE(6, 4, 5, recipes.deepseek_v3(top_k=2, num_groups=1, top_groups=1), rng=np.random.default_rng(0))
    assert "router.balancer_state" in arrays_of_experts(balanced)
    assert not any(name.startswith("shared") for name in arrays_of_experts(balanced))
    with_zero = make_layer(recipes.longcat(), 6, 4, 5, rng=np.random.default_rng(0))
    assert "experts.real.down" in arrays_of_experts(with_zero)


def test_two_copies_share_out_the_tokens_of_one_and_answer_as_it_did():
    layer, x = layer_of(recipes.mixtral(top_k=1)), Tensor(np.random.default_rng(1).standard_normal((400, 6)))
    y, before = layer(x)
    loaded = int(np.argmax(before.statistics.load))
    (idle,) = {0, 1} - {loaded} if loaded in (0, 1) else {0}
    split((tensor.data for tensor in arrays_of_experts(layer).values()), idle, loaded)
    move_apart([layer.router.weight.data], idle, loaded, np.random.default_rng(2))
    after_y, after = layer(x)
    mine = before.token[before.expert == loaded]
    expert = np.empty(400, int)
    expert[after.token] = after.expert
    stayed = np.isin(expert[mine], [idle, loaded])
    assert stayed.mean() > 0.8  # the others found another expert, now that the row has moved
    np.testing.assert_allclose(after_y.data[mine[stayed]], y.data[mine[stayed]], rtol=1e-12)
    shares = after.statistics.load[[idle, loaded]] / len(mine)
    assert shares.min() > 0.2
