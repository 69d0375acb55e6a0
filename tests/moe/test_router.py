import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import RouterConfig, recipes
from moe_numpy.moe.balance import SwitchBalance, ZLoss
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.gates import Jitter, Raw
from moe_numpy.moe.router import Router
from moe_numpy.moe.selection import TopK


def make(config, num_experts=4, d_model=3, seed=0):
    return Router(config, d_model, num_experts, rng=np.random.default_rng(seed), dtype=np.float64)


def tokens(n, d_model=3, seed=1):
    return Tensor(np.random.default_rng(seed).standard_normal((n, d_model)), requires_grad=True)


@settings(max_examples=60, deadline=None)
@given(
    num_tokens=st.integers(0, 12),
    num_experts=st.integers(1, 6),
    factor=st.none() | st.floats(0.2, 2),
    data=st.data(),
)
def test_what_every_routing_must_satisfy(num_tokens, num_experts, factor, data):
    top_k = data.draw(st.integers(1, num_experts))
    config = RouterConfig(TopK(top_k), capacity=None if factor is None else Capacity(factor))
    routing = make(config, num_experts)(tokens(num_tokens, seed=data.draw(st.integers(0, 99))))
    statistics, dropped = routing.statistics, routing.statistics.dropped

    pairs = list(zip(routing.expert.tolist(), routing.token.tolist(), strict=True))
    assert pairs == sorted(set(pairs))  # by expert, then token, no pair twice
    assert routing.offsets[0] == 0
    assert routing.offsets[-1] == len(routing.token) == routing.weight.shape[0]
    for e in range(num_experts):
        assert set(routing.expert[routing.offsets[e] : routing.offsets[e + 1]].tolist()) <= {e}
    assert statistics.load.sum() == top_k * num_tokens == len(routing.token) + len(dropped)
    kept = np.diff(routing.offsets)
    if factor is None:
        assert len(dropped) == 0
        np.testing.assert_array_equal(kept, statistics.load)
    else:
        np.testing.assert_array_equal(kept, np.minimum(statistics.load, config.capacity.size(num_tokens, num_experts, top_k)))
    if num_tokens:
        assert statistics.importance.sum() == pytest.approx(1)


def test_weights_of_a_token_sum_to_one_before_dropping_and_keep_their_value_after():
    free = make(recipes.mixtral())(tokens(10))
    tight = make(recipes.mixtral(capacity_factor=0.5))(tokens(10))
    np.testing.assert_allclose(np.bincount(free.token, free.weight.data), 1)
    weight_of = {(t, e): w for t, e, w in zip(free.token, free.expert, free.weight.data, strict=True)}
    assert 0 < len(tight.token) < 20
    for t, e, w in zip(tight.token, tight.expert, tight.weight.data, strict=True):
        assert w == weight_of[t, e]


def test_dropped_assignments_are_listed_with_the_reason():
    routing = make(recipes.switch(capacity_factor=0.5)).eval()(tokens(8))
    dropped = routing.statistics.dropped
    assert len(dropped) > 0
    assert routing.statistics.dropped_fraction == len(dropped) / 8
    assert dropped.reason(0) == f"token {dropped.token[0]}: expert {dropped.expert[0]} had filled its 1 places"
    assert not set(zip(dropped.token, dropped.expert, strict=True)) & set(zip(routing.token, routing.expert, strict=True))


def test_only_the_weights_carry_the_task_gradient_to_the_router():
    router = make(RouterConfig(TopK(1), weights=Raw()))
    routing = router(tokens(6))
    routing.weight.backward(np.ones(6))
    assert np.abs(router.weight.grad).max() > 0
    assert routing.auxiliary_loss is None
    assert routing.losses == {}


def test_the_auxiliary_loss_is_the_weighted_sum_and_reaches_the_router():
    router = make(RouterConfig(TopK(2), losses=(SwitchBalance(0.5), ZLoss(0.25))))
    routing = router(tokens(6))
    expected = 0.5 * routing.losses["balance"].item() + 0.25 * routing.losses["z"].item()
    assert routing.auxiliary_loss.item() == pytest.approx(expected)
    routing.auxiliary_loss.backward()
    assert np.abs(router.weight.grad).max() > 0


def test_noise_needs_an_rng_in_training_and_is_off_in_evaluation():
    router = make(RouterConfig(TopK(1), noise=Jitter(0.5), weights=Raw()))
    x = tokens(20)
    with pytest.raises(ValueError, match=r"a router with Jitter\(epsilon=0.5\) needs rng while training"):
        router(x)
    noisy = [router(x, np.random.default_rng(seed)).weight.data for seed in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert not np.array_equal(noisy[0], noisy[2])
    router.eval()
    silent = make(RouterConfig(TopK(1), weights=Raw()))
    np.testing.assert_array_equal(router(x).weight.data, silent(x).weight.data)


def test_the_router_never_works_below_float32():
    config = RouterConfig(TopK(2), losses=(SwitchBalance(), ZLoss()))
    router = Router(config, 3, 4, rng=np.random.default_rng(0), dtype=np.float16)
    x = Tensor(np.random.default_rng(1).standard_normal((5, 3)).astype(np.float16), requires_grad=True)
    routing = router(x)
    assert routing.weight.dtype == routing.losses["z"].dtype == np.float32
    (routing.weight.sum() + routing.auxiliary_loss).backward()
    assert router.weight.grad.dtype == x.grad.dtype == np.float16


def test_top_k_must_fit():
    with pytest.raises(ValueError, match="top_k must be between 1 and num_experts=4, got 5"):
        make(RouterConfig(TopK(5)))


def test_a_configuration_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes.mixtral().selection = TopK(3)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_routes_and_gives_the_router_a_task_gradient(name):
    router = make(recipes.RECIPES[name]())
    router(tokens(8), np.random.default_rng(0)).weight.backward(np.arange(1.0, 1 + len(router(tokens(8), np.random.default_rng(0)).token)))
    assert np.abs(router.weight.grad).max() > 1e-8


def test_recipes_without_a_capacity_drop_nothing():
    assert recipes.switch(capacity_factor=None).capacity is None
    assert recipes.switch().capacity == Capacity(1.25)
    assert recipes.mixtral().capacity is None
