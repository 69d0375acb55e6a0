import dataclasses

import numpy as np
import pytest
from by_hand import sigmoid, softmax, who_fits
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor, substitute
from moe_numpy.moe import Batch, RouterConfig, recipes
from moe_numpy.moe.balancers import LossFreeBias
from moe_numpy.moe.capacity import ROUNDING, Capacity
from moe_numpy.moe.gates import Gate, Renormalize, Scale, SelectedSoftmax, SqrtSoftplus
from moe_numpy.moe.losses import SwitchBalance, ZLoss
from moe_numpy.moe.noise import Jitter, NormalNoise, ShazeerNoise
from moe_numpy.moe.router import Router
from moe_numpy.moe.selection import Threshold, TopK
from moe_numpy.ops import ReLU, Sigmoid, Softmax

MIXTRAL = recipes.mixtral().router


def make(config, num_experts=4, d_model=3, seed=0, dtype=np.float64):
    return Router(config, d_model, num_experts, rng=np.random.default_rng(seed), dtype=dtype)


def tokens(n, d_model=3, seed=1):
    return Tensor(np.random.default_rng(seed).standard_normal((n, d_model)), requires_grad=True)


def route(config, x, *, training=False, seed=0, **sizes):
    return make(config, **sizes)(x, Batch(len(x), training, np.random.default_rng(seed)))


def weight_of(routing):
    pairs = zip(routing.token.tolist(), routing.expert.tolist(), strict=True)
    return dict(zip(pairs, routing.gate.data.tolist(), strict=True))


@settings(deadline=None)
@given(
    sequences=st.integers(0, 3),
    length=st.integers(1, 5),
    num_experts=st.integers(1, 6),
    factor=st.none() | st.floats(0.2, 2),
    rounding=st.sampled_from(sorted(ROUNDING)),
    drop=st.sampled_from(["position", "probability", "batch_priority"]),
    scope=st.sampled_from(["batch", "sequence", 2]),
    data=st.data(),
)
def test_what_every_routing_must_satisfy(sequences, length, num_experts, factor, rounding, drop, scope, data):
    top_k = data.draw(st.integers(1, num_experts))
    num_tokens = sequences * length
    capacity = None if factor is None else Capacity(factor, rounding, drop, scope)
    router = make(RouterConfig(TopK(top_k), capacity=capacity), num_experts)
    x = tokens(num_tokens, seed=data.draw(st.integers(0, 99)))
    routing = router(x, Batch(length))
    statistics, dropped = routing.statistics, routing.statistics.dropped

    pairs = list(zip(routing.expert.tolist(), routing.token.tolist(), strict=True))
    assert pairs == sorted(set(pairs))  # by expert, then token, no pair twice
    assert routing.offsets[0] == 0
    assert routing.offsets[-1] == len(routing.token) == routing.gate.shape[0]
    for e in range(num_experts):
        assert set(routing.expert[routing.offsets[e] : routing.offsets[e + 1]].tolist()) <= {e}
    assert statistics.load.sum() == top_k * num_tokens == len(routing.token) + len(dropped)
    gone = list(zip(dropped.token.tolist(), dropped.expert.tolist(), strict=True))
    assert [token for token, _ in gone] == sorted(token for token, _ in gone)
    if num_tokens:
        assert statistics.importance.sum() == pytest.approx(1)

    c = routing.trace.candidates
    expected = [True] * len(c.token)
    if capacity is not None:
        in_scope = {"batch": num_tokens, "sequence": length}.get(scope, scope)
        size = ROUNDING[rounding](in_scope, num_experts, top_k, factor)
        assert dropped.capacity == size
        expected = who_fits(c, routing.trace.scores.data, size, drop=drop, tokens_in_scope=in_scope)
    kept = {(e, t) for e, t, fits in zip(c.expert.tolist(), c.token.tolist(), expected, strict=True) if fits}
    assert set(pairs) == kept


def test_gate_weights_of_a_token_sum_to_one_before_dropping_and_keep_their_value_after():
    x = tokens(10)
    free, tight = route(MIXTRAL, x), route(recipes.mixtral(capacity_factor=0.5).router, x)
    np.testing.assert_allclose(np.bincount(free.token, free.gate.data), 1)
    before = weight_of(free)
    assert 0 < len(tight.token) < 20
    assert weight_of(tight).items() <= before.items()


def test_normalising_after_dropping_shares_the_gate_weight_among_the_kept():
    x = tokens(10)
    config = RouterConfig(TopK(2), capacity=Capacity(0.5), gate_after_dropping=True)
    routing = route(config, x)
    left = np.bincount(routing.token, minlength=10)
    assert {0, 1, 2} == set(left.tolist())
    np.testing.assert_allclose(np.bincount(routing.token, routing.gate.data, minlength=10)[left > 0], 1)
    before = route(dataclasses.replace(config, gate_after_dropping=False), x)
    assert weight_of(before).keys() == weight_of(routing).keys()
    assert weight_of(before) != weight_of(routing)


def test_a_first_choice_is_gated_as_if_its_second_had_been_sent():
    """GShard flips its coin after normalising: a token that lost its second expert still has g1 / (g1 + g2)."""
    config = recipes.gshard(capacity_factor=None).router
    trained, evaluated = route(config, tokens(64), training=True), route(config, tokens(64))
    assert 64 < len(trained.token) < len(evaluated.token) == 128
    full = weight_of(evaluated)
    assert all(weight == pytest.approx(full[pair]) for pair, weight in weight_of(trained).items())
    assert len(trained.statistics.dropped) == 0  # not sent is not dropped


def test_dropped_assignments_are_listed_with_the_reason():
    routing = route(recipes.switch(capacity_factor=0.5, eval_capacity_factor=None).router, tokens(8))
    dropped = routing.statistics.dropped
    assert len(dropped) > 0
    assert routing.statistics.dropped_fraction == len(dropped) / 8
    assert dropped.reason(0) == f"token {dropped.token[0]}: expert {dropped.expert[0]} had filled its 1 places"
    gone, kept = (set(zip(r.token.tolist(), r.expert.tolist(), strict=True)) for r in (dropped, routing))
    assert not gone & kept
    empty = route(MIXTRAL, tokens(0)).statistics
    assert empty.dropped_fraction == 0
    assert empty.dropped.capacity is None


# Scores, bias, weights


@pytest.mark.parametrize(
    ("scores", "function"),
    [
        (Softmax, softmax),
        (Sigmoid, sigmoid),
        (ReLU, lambda h: np.maximum(h, 0)),
        (SqrtSoftplus, lambda h: np.sqrt(np.log1p(np.exp(h)))),
        (None, lambda h: h),
    ],
)
def test_raw_gate_weights_are_the_scores_of_the_chosen(scores, function):
    router, x = make(RouterConfig(TopK(2), scores=scores, gates=(), bias=True)), tokens(6)
    router.bias.data[:] = [0.3, -0.2, 0.1, 0]
    routing = router(x, Batch(6))
    s = function(x.data @ router.weight.data.T + router.bias.data)
    np.testing.assert_allclose(routing.gate.data, s[routing.token, routing.expert])
    np.testing.assert_allclose(routing.statistics.importance, s.mean(axis=0))


def test_steps_are_applied_in_their_order():
    x = tokens(5)
    scaled_last = route(RouterConfig(TopK(2), gates=(Gate(Renormalize), Scale(3.0))), x)
    scaled_first = route(RouterConfig(TopK(2), gates=(Scale(3.0), Gate(Renormalize))), x)
    np.testing.assert_allclose(np.bincount(scaled_last.token, scaled_last.gate.data), 3)
    np.testing.assert_allclose(np.bincount(scaled_first.token, scaled_first.gate.data), 1)


def test_mixtral_is_shazeer_without_noise():
    """Softmax, top-k, renormalise = top-k, softmax: in value and in the router's gradient."""
    configs = RouterConfig(TopK(2)), RouterConfig(TopK(2), scores=None, gates=(Gate(SelectedSoftmax),))
    gradients = []
    for config in configs:
        router = make(config)
        gate = router(tokens(6), Batch(6)).gate
        gate.backward(np.random.default_rng(2).standard_normal(12))
        gradients.append((gate.data, router.weight.grad))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_choosing_by_logits_and_by_scores_differ_where_a_bias_does():
    """σ' is small for large logits: the same bias is worth more before the sigmoid than after it."""
    chosen = []
    for choose_by in ("scores", "logits"):
        config = RouterConfig(TopK(1), scores=Sigmoid, choose_by=choose_by, gates=(), balancer=LossFreeBias())
        router = make(config, num_experts=2, d_model=1)
        router.weight.data[:] = [[1.0], [5.0]]
        router.balancer_state.data[:] = [0.3, 0.0]
        chosen.append(router(Tensor(np.array([[1.0]])), Batch(1)).expert.tolist())
    assert chosen == [[0], [1]]


def test_a_token_without_a_positive_score_goes_nowhere():
    router = make(RouterConfig(Threshold(), scores=ReLU, gates=()))
    routing = router(Tensor(np.zeros((3, 3))), Batch(3))
    assert len(routing.token) == 0
    assert routing.offsets.tolist() == [0] * 5
    assert routing.statistics.dropped_fraction == 0


# Gradients and losses


def test_only_the_gate_weights_carry_the_task_gradient_to_the_router():
    router = make(RouterConfig(TopK(1), gates=()))
    routing = router(tokens(6), Batch(6))
    routing.gate.backward(np.ones(6))
    assert np.abs(router.weight.grad).max() > 0
    assert routing.auxiliary_loss is None
    assert routing.losses == {}


def test_the_auxiliary_loss_is_the_weighted_sum_and_reaches_the_router():
    router = make(RouterConfig(TopK(2), losses=(SwitchBalance(0.5), ZLoss(0.25))))
    routing = router(tokens(6), Batch(6))
    expected = 0.5 * routing.losses["balance"].item() + 0.25 * routing.losses["z"].item()
    assert routing.auxiliary_loss.item() == pytest.approx(expected)
    routing.auxiliary_loss.backward()
    assert np.abs(router.weight.grad).max() > 0


def test_losses_count_assignments_before_dropping():
    x = tokens(8)
    losses = (SwitchBalance(),)
    free, tight = (route(RouterConfig(TopK(1), losses=losses, capacity=c), x) for c in (None, Capacity(0.25)))
    assert free.losses["balance"].item() == tight.losses["balance"].item()


def test_the_global_load_is_counted_in_training_until_the_step():
    router = make(RouterConfig(TopK(1), losses=(SwitchBalance(scope="global"),)))
    first, second = tokens(6, seed=1), tokens(10, seed=2)
    load = router(first, Batch(6)).trace.load  # evaluation leaves no trace
    assert router(first, Batch(6, training=True)).trace.load_since_update.tolist() == load.tolist()
    both = router(second, Batch(10, training=True)).trace
    assert both.load_since_update.tolist() == (load + both.load).tolist()
    router.after_step()
    again = router(second, Batch(10, training=True)).trace
    assert again.load_since_update.tolist() == again.load.tolist()


# Noise and precision


@pytest.mark.parametrize("noise", [Jitter(0.5), ShazeerNoise(), NormalNoise(1.0)], ids=repr)
def test_noise_needs_an_rng_in_training_and_is_off_in_evaluation(noise):
    router = make(RouterConfig(TopK(1), noise=noise, gates=()))
    x = tokens(20)
    with pytest.raises(ValueError, match=rf"{type(noise).__name__}\(.*\) needs rng while training; pass rng="):
        router(x, Batch(20, training=True))
    noisy = [router(x, Batch(20, True, np.random.default_rng(seed))).gate.data for seed in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert not np.array_equal(noisy[0], noisy[2])
    silent = make(RouterConfig(TopK(1), gates=()))
    np.testing.assert_array_equal(router(x, Batch(20)).gate.data, silent(x, Batch(20)).gate.data)
    assert (router.noise_weight is not None) == isinstance(noise, ShazeerNoise)


def test_the_router_never_works_below_float32():
    config = RouterConfig(
        TopK(2), losses=(SwitchBalance(), ZLoss()), bias=True, noise=ShazeerNoise(), balancer=LossFreeBias()
    )
    router = make(config, dtype=np.float16)
    x = Tensor(np.random.default_rng(1).standard_normal((5, 3)).astype(np.float16), requires_grad=True)
    routing = router(x, Batch(5, True, np.random.default_rng(0)))
    assert routing.gate.dtype == routing.losses["z"].dtype == np.float32
    (routing.gate.sum() + routing.auxiliary_loss).backward()
    assert router.weight.grad.dtype == router.bias.grad.dtype == x.grad.dtype == np.float16
    router.after_step()
    assert router(x, Batch(5)).gate.dtype == np.float32


# Configuration


def test_a_substituted_function_takes_part():
    class Halved(Renormalize):
        def forward(self, s, token, *, num_tokens, epsilon=0.0):
            return super().forward(s, token, num_tokens=num_tokens, epsilon=epsilon) / 2

    with substitute(Renormalize, Halved):
        routing = route(MIXTRAL, tokens(4))
    np.testing.assert_allclose(np.bincount(routing.token, routing.gate.data), 0.5)


def test_top_k_must_fit():
    with pytest.raises(ValueError, match="top_k must be between 1 and num_experts=4, got 5"):
        make(RouterConfig(TopK(5)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"choose_by": "weights"}, "choose_by must be scores or logits, got 'weights'"),
        ({"gate_on": "both"}, "gate_on must be output or input, got 'both'"),
        ({"losses": (ZLoss(), ZLoss(0.1))}, "the losses of a router need different names, got z, z"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        RouterConfig(TopK(1), **settings)


def test_a_configuration_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MIXTRAL.selection = TopK(3)


def test_two_losses_of_one_kind_need_their_own_names():
    routing = route(RouterConfig(TopK(1), losses=(ZLoss(1.0), ZLoss(2.0, name="more z"))), tokens(3))
    assert list(routing.losses) == ["z", "more z"]
    assert routing.auxiliary_loss.item() == pytest.approx(3 * routing.losses["z"].item())
