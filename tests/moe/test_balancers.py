import numpy as np
import pytest
from by_hand import sigmoid, softmax

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import Batch, Router, RouterConfig
from moe_numpy.moe.balancers import AdaptiveL1, Balancer, LossFreeBias, QuantileBalancing
from moe_numpy.moe.gates import Gate, Renormalize
from moe_numpy.moe.selection import Threshold, TopK
from moe_numpy.ops import ReLU, Sigmoid


def make(config, num_experts=4, d_model=3):
    return Router(config, d_model, num_experts, rng=np.random.default_rng(0), dtype=np.float64)


def tokens(n, d_model=3, seed=1):
    return Tensor(np.random.default_rng(seed).standard_normal((n, d_model)))


def alike(n, d_model=3):
    """Tokens with much in common, so that they choose the same experts."""
    return Tensor(tokens(n, d_model).data + 1)


def train(router, x, steps):
    """Route the same tokens repeatedly; only after_step changes the router."""
    for _ in range(steps):
        routing = router(x, Batch(len(x), training=True))
        router.after_step()
    return routing


def test_the_base_balancer_does_nothing():
    router = make(RouterConfig(TopK(2), balancer=Balancer()))
    plain = make(RouterConfig(TopK(2)))
    x = tokens(6)
    routing = train(router, x, 2)
    np.testing.assert_array_equal(routing.expert, plain(x, Batch(6)).expert)
    np.testing.assert_array_equal(router.balancer_state.data, 0)
    assert routing.losses == {}


# DeepSeek-V3's bias


def test_the_bias_moves_by_gamma_against_the_load():
    state = np.array([0.5, 0.0, -0.5, 0.0])
    after = LossFreeBias(0.125).update(state, np.array([8.0, 2.0, 4.0, 2.0]), 3)
    np.testing.assert_array_equal(after, [0.375, 0.125, -0.5, 0.125])  # the third has exactly the mean


def test_the_bias_enters_the_choice_and_gate_weights_come_from_the_scores():
    router = make(RouterConfig(TopK(1), scores=Sigmoid, gates=(), balancer=LossFreeBias()))
    router.balancer_state.data[:] = [0, 0, 10, 0]
    x = tokens(5)
    routing = router(x, Batch(5))
    assert routing.expert.tolist() == [2] * 5
    np.testing.assert_allclose(routing.gate.data, sigmoid(x.data @ router.weight.data[2]))


def test_the_bias_evens_the_load_without_touching_the_gate_weights():
    router = make(RouterConfig(TopK(1), scores=Sigmoid, gates=(), balancer=LossFreeBias(0.01)))
    before = router.weight.data.copy()
    x = tokens(200)
    uneven = router(x, Batch(200)).statistics.load
    even = train(router, x, 100).statistics.load
    assert uneven.max() - uneven.min() > 40
    assert even.max() - even.min() < 12
    np.testing.assert_array_equal(router.weight.data, before)


def test_the_load_is_summed_over_micro_batches_before_one_step():
    x = tokens(12)
    whole, parts = (make(RouterConfig(TopK(1), gates=(), balancer=LossFreeBias(0.1))) for _ in range(2))
    train(whole, x, 1)
    for part in np.split(x.data, 3):
        parts(Tensor(part), Batch(4, training=True))
    parts.after_step()
    np.testing.assert_array_equal(whole.balancer_state.data, parts.balancer_state.data)
    parts.after_step()  # nothing was observed since
    np.testing.assert_array_equal(whole.balancer_state.data, parts.balancer_state.data)


# Quantile balancing


def quantile_router(k=2, ema=0.0):
    return make(RouterConfig(TopK(k), choose_by="logits", balancer=QuantileBalancing(k, ema)))


def test_quantiles_by_hand():
    """k = 1, T = 4, E = 2: each expert may have two tokens; β' is the third largest s - α."""
    s = np.array([[4.0, 1.0], [3.0, 1.0], [2.0, 1.0], [1.0, 0.5]])
    # α = (1, 1, 1, .5), the second best; s - α: expert 0 (3, 2, 1, .5), expert 1 (0, 0, 0, 0).
    balancing = QuantileBalancing(1, ema=0.0)
    state = balancing.initial(2)
    trace = make(RouterConfig(TopK(1)))(tokens(4), Batch(4)).trace  # not looked at
    beta = balancing.observe(trace, s, state)
    np.testing.assert_array_equal(beta, [1, 0])
    np.testing.assert_array_equal(balancing.update(state, beta, 1), [0.5, -0.5])
    np.testing.assert_array_equal(balancing.shift(s, np.array([0.5, -0.5]))[0], [3.5, 1.5])


def test_at_the_fixed_point_every_expert_has_its_fair_share():
    router = quantile_router()
    x = alike(64)
    uneven = router(x, Batch(64)).statistics.load
    assert uneven.max() - uneven.min() > 40
    train(router, x, 60)
    before = router.balancer_state.data
    train(router, x, 1)
    np.testing.assert_allclose(router.balancer_state.data, before, atol=1e-12)
    assert router.balancer_state.data.sum() == pytest.approx(0)
    # The 33rd token of each expert is exactly on the edge, so that 32 are inside. Rounding decides those on the edge.
    biased = x.data @ router.weight.data.T - before
    margin = biased - np.sort(biased, axis=1)[:, -3, None]
    np.testing.assert_allclose(np.sort(margin, axis=0)[-33], 0, atol=1e-12)
    assert np.abs(router(x, Batch(64)).statistics.load - 32).max() <= 2


def test_ema_moves_beta_a_part_of_the_way_to_the_mean_of_the_passes():
    state, observed = np.array([1.0, -1.0]), np.array([8.0, 0.0])
    np.testing.assert_allclose(QuantileBalancing(1, ema=0.75).update(state, observed, 2), [1.25, -1.25])


def test_all_experts_or_no_tokens_need_no_balancing():
    router = quantile_router(k=4)
    train(router, tokens(5), 3)
    np.testing.assert_array_equal(router.balancer_state.data, 0)
    router = quantile_router()
    train(router, tokens(0), 3)
    np.testing.assert_array_equal(router.balancer_state.data, 0)


# ReMoE's penalty


def remoe_router(k=2.0, **settings):
    config = RouterConfig(Threshold(), scores=ReLU, gates=(), balancer=AdaptiveL1(k, **settings))
    return make(config, num_experts=8)


def test_the_penalty_is_the_load_weighted_mean_gate_weight_times_lambda():
    router = remoe_router(k=2.0, initial_coefficient=0.5)
    x = tokens(6)
    routing = router(x, Batch(6))
    w = np.maximum(x.data @ router.weight.data.T, 0)
    f = (w > 0).sum(axis=0) * 8 / (2 * 6)
    assert routing.losses["balancing"].item() == pytest.approx(0.5 * (f * w).sum() / 6)
    assert routing.auxiliary_loss.item() == routing.losses["balancing"].item()
    routing.auxiliary_loss.backward()
    np.testing.assert_allclose(router.weight.grad, (0.5 / 6 * f * (w > 0)).T @ x.data)


def test_lambda_follows_the_sparsity():
    router = remoe_router(k=2.0, initial_coefficient=1.0)
    x = tokens(50)
    assert router(x, Batch(50)).statistics.load.sum() / 50 > 2
    train(router, x, 3)
    np.testing.assert_allclose(router.balancer_state.data, 1.2**3)
    train(router, Tensor(np.zeros((5, 3))), 2)  # nobody is active
    np.testing.assert_allclose(router.balancer_state.data, 1.2)


def test_lambda_looks_at_the_mean_of_the_passes_of_a_step():
    balancing = AdaptiveL1(k=2.0)
    assert balancing.update(np.array([1.0]), np.array([2 * 1.5]), 2) == pytest.approx(1 / 1.2)
    assert balancing.update(np.array([1.0]), np.array([2 * 2.5]), 2) == pytest.approx(1.2)
    assert balancing.update(np.array([1.0]), np.array([2 * 2.0]), 2) == 1  # on target


def test_training_adapts_lambda_until_k_experts_are_active():
    router = remoe_router(k=2.0, initial_coefficient=0.1)
    x = alike(100)
    active = []
    for _ in range(100):
        router.zero_grad()
        routing = router(x, Batch(100, training=True))
        active.append(routing.statistics.load.sum() / 100)
        (routing.auxiliary_loss - 0.01 * routing.gate.sum()).backward()  # a task that wants experts
        router.weight.data -= 0.05 * router.weight.grad
        router.after_step()
    assert active[0] > 3.5
    assert np.mean(active[-50:]) == pytest.approx(2, abs=0.2)


# State and settings


def test_the_state_is_saved_and_loaded_with_the_router():
    config = RouterConfig(TopK(1), gates=(), balancer=LossFreeBias(0.1))
    router, other = make(config), make(config)
    train(router, tokens(9), 3)
    assert "balancer_state" in router.state_dict()
    assert "balance" not in dict(router.named_parameters())
    other.load_state_dict(router.state_dict())
    np.testing.assert_array_equal(other.balancer_state.data, router.balancer_state.data)


def test_a_shift_keeps_float32():
    scores = softmax(np.zeros((2, 4))).astype(np.float32)
    for balancer in (Balancer(), LossFreeBias(), QuantileBalancing(2)):
        assert balancer.shift(scores, balancer.initial(4)).dtype == np.float32


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: LossFreeBias(-0.1), "rate must not be negative, got -0.1"),
        (lambda: QuantileBalancing(2, ema=1.0), r"ema must be in \[0, 1\), got 1.0"),
        (lambda: QuantileBalancing(2, ema=-0.1), r"ema must be in \[0, 1\), got -0.1"),
        (lambda: QuantileBalancing(5).initial(4), "k must be between 1 and num_experts=4, got 5"),
        (lambda: QuantileBalancing(0).initial(4), "k must be between 1 and num_experts=4, got 0"),
        (lambda: AdaptiveL1(factor=1.0), "factor must be above 1, got 1.0"),
        (lambda: AdaptiveL1(k=0.0), "k must be positive, got 0.0"),
        (lambda: AdaptiveL1(initial_coefficient=0.0), "initial_coefficient must be positive, .*got 0.0"),
    ],
)
def test_settings_out_of_range_are_named(make_one, message):
    with pytest.raises(ValueError, match=message):
        make_one()


def test_normalised_gate_weights_ignore_the_bias_too():
    router = make(RouterConfig(TopK(2), scores=Sigmoid, gates=(Gate(Renormalize),), balancer=LossFreeBias()))
    router.balancer_state.data[:] = [5, 0, 5, 0]
    routing = router(tokens(4), Batch(4))
    assert set(routing.expert.tolist()) == {0, 2}
    np.testing.assert_allclose(np.bincount(routing.token, routing.gate.data), 1)


def test_lambda_does_not_vanish_while_too_few_experts_are_active():
    balancing = AdaptiveL1(k=2.0)
    state = balancing.initial(4)
    for _ in range(5000):
        state = balancing.update(state, np.zeros(1), 1)
    for _ in range(300):
        state = balancing.update(state, np.array([3.0]), 1)
    assert state > balancing.initial(4)
