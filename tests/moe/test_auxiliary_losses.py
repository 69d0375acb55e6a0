from dataclasses import replace

import numpy as np
import pytest
from by_hand import sigmoid, softmax
from scipy.special import ndtr

from moe_numpy.autodiff import Tensor
from moe_numpy.gradcheck import gradcheck
from moe_numpy.moe import Batch, Router, RouterConfig
from moe_numpy.moe.losses import (
    BalanceLoss,
    GlobalEntropy,
    Importance,
    Load,
    LoadProbability,
    LocalEntropy,
    RouterZLoss,
    SquaredCV,
    SumByExpert,
    SwitchBalance,
    ZLoss,
    balance_of_layers,
)
from moe_numpy.moe.noise import NormalNoise, ShazeerNoise
from moe_numpy.moe.routing import RoutingTrace
from moe_numpy.moe.selection import TopK
from moe_numpy.ops import Sigmoid, Softmax


def trace(h, k=1, *, sequence_length=None, earlier=0, dtype=np.float64):
    """What a router with softmax scores and top-k would show to its losses."""
    h = Tensor(np.asarray(h, dtype), requires_grad=True)
    batch = Batch(sequence_length or len(h), training=True)
    candidates = TopK(k)(h.data, batch)
    load = np.bincount(candidates.expert, minlength=h.shape[1])
    p = Softmax.apply(h, axis=-1)
    weight = p[candidates.token, candidates.expert]
    return RoutingTrace(h, h, None, p, weight, candidates, load, load + earlier, k, batch)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# Switch and its family


def test_one_at_balance_and_e_at_collapse():
    uniform = np.full((6, 4), 0.25)
    assert BalanceLoss.apply(Tensor(uniform), np.full((1, 4), 0.25)).item() == pytest.approx(1)
    collapsed = np.tile([1.0, 0, 0, 0], (6, 1))
    assert BalanceLoss.apply(Tensor(collapsed), np.array([[1.0, 0, 0, 0]])).item() == pytest.approx(4)


def test_one_is_not_a_lower_bound():
    p = np.tile([0.451, 0.549], (10, 1))
    assert BalanceLoss.apply(Tensor(p), np.array([[0.9, 0.1]])).item() == pytest.approx(0.921, abs=1e-3)


def test_the_gradient_is_e_f_over_t_for_every_token():
    p = Tensor(np.random.default_rng(0).dirichlet(np.ones(3), size=4), requires_grad=True)
    f = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    BalanceLoss.apply(p, f).backward(np.asarray(2.0))
    np.testing.assert_allclose(p.grad, 2 * 3 / 4 * f[[0, 0, 1, 1]])


def test_balance_counts_assignments_before_dropping():
    h = np.tile([0.0, np.log(3)], (8, 1))  # P = (1/4, 3/4), and everyone takes expert 1
    assert SwitchBalance()(trace(h)).item() == pytest.approx(2 * 0.75)
    assert SwitchBalance()(trace(h, k=2)).item() == pytest.approx(1)  # f = (1/2, 1/2)
    assert SwitchBalance(count="first")(trace(h, k=2)).item() == pytest.approx(1.5)


def test_the_value_at_balance_is_1_or_k():
    h = np.concatenate([draw(3, 4), np.zeros((1, 4))])
    for k in (1, 2, 4):
        one, times_k = (SwitchBalance(at_balance=at)(trace(h, k)).item() for at in (1, "k"))
        assert times_k == pytest.approx(k * one)
    assert SwitchBalance(at_balance="k")(trace(np.zeros((4, 4)), 4)).item() == pytest.approx(4)


def test_a_sequence_scope_is_the_mean_of_the_losses_of_each_sequence():
    h = draw(12, 3)
    parts = [SwitchBalance()(trace(part, 2)).item() for part in h.reshape(4, 3, 3)]
    of_sequences = trace(h, 2, sequence_length=3)
    loss = SwitchBalance(scope="sequence")(of_sequences)
    assert loss.item() == pytest.approx(np.mean(parts))
    assert loss.item() != pytest.approx(SwitchBalance()(trace(h, 2)).item())
    loss.backward()
    gradients = []
    for part in h.reshape(4, 3, 3):
        alone = trace(part, 2)
        SwitchBalance()(alone).backward()
        gradients.append(alone.logits.grad / 4)
    np.testing.assert_allclose(of_sequences.logits.grad, np.concatenate(gradients), atol=1e-15)


def test_a_global_scope_counts_the_passes_since_the_last_step():
    h, earlier = draw(5, 3), np.array([10, 0, 5])
    g = trace(h, 2, earlier=earlier)
    f = (g.load + earlier) / 25
    expected = 3 * (f * softmax(h).mean(axis=0)).sum()
    assert SwitchBalance(scope="global")(g).item() == pytest.approx(expected)


def test_deepseek_v3_normalises_its_sigmoids_over_all_experts():
    h = draw(6, 4)
    s = sigmoid(h)
    p = s / s.sum(axis=1, keepdims=True)
    g = trace(h, 2)
    expected = 4 * (g.load / 12 * p.mean(axis=0)).sum()
    assert SwitchBalance(scoring=Sigmoid)(g).item() == pytest.approx(expected)


def test_the_unbiased_count_ignores_bias_and_groups():
    h = draw(6, 4)
    real = trace(-h, 2)  # as if the choice had been the opposite
    g = replace(trace(h, 2), candidates=real.candidates, load=real.load)
    assert SwitchBalance(count="unbiased")(g).item() == pytest.approx(SwitchBalance()(trace(h, 2)).item())
    assert SwitchBalance(count="unbiased")(g).item() != pytest.approx(SwitchBalance()(g).item())


@pytest.mark.parametrize("scope", ["batch", "sequence", "global"])
def test_balance_of_an_empty_batch_is_zero_not_nan(scope):
    g = trace(np.zeros((0, 2)))
    loss = SwitchBalance(scope=scope)(g)
    loss.backward()
    assert loss.item() == 0
    assert g.logits.grad.shape == (0, 2)


def test_opposite_collapsed_layers_cancel_when_they_are_averaged_first():
    left, right = np.tile([1.0, 0.0], (5, 1)), np.tile([0.0, 1.0], (5, 1))
    loads = [np.array([5, 0]), np.array([0, 5])]
    together = balance_of_layers([Tensor(left), Tensor(right)], loads)
    assert together.item() == pytest.approx(1.0)
    each = [balance_of_layers([Tensor(p)], [load]).item() for p, load in zip((left, right), loads, strict=True)]
    assert each == pytest.approx([2.0, 2.0])


def test_balance_of_layers_is_k_at_balance_and_its_gradient_goes_through_p():
    p = [Tensor(np.full((6, 4), 0.25), requires_grad=True) for _ in range(3)]
    loss = balance_of_layers(p, [np.full(4, 3)] * 3)
    assert loss.item() == pytest.approx(2)
    loss.backward()
    np.testing.assert_allclose(p[1].grad, 4 / 18 * np.full((6, 4), 0.5))


# z-loss


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_z_loss_of_equal_logits(shift):
    assert ZLoss()(trace(np.full((3, 4), shift))).item() == pytest.approx((shift + np.log(4)) ** 2)


def test_z_loss_gradient_is_2_lse_p_over_t():
    h = Tensor(draw(5, 3), requires_grad=True)
    RouterZLoss.apply(h).backward()
    lse = np.log(np.exp(h.data).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(h.grad, 2 * lse * softmax(h.data) / 5)


# Importance and load


@pytest.mark.parametrize(("ddof", "expected"), [(0, 0.2), (1, 4 / 15)])
def test_squared_cv_of_a_population_and_of_a_sample(ddof, expected):
    assert SquaredCV.apply(Tensor(np.array([1.0, 2, 3, 4])), ddof=ddof).item() == pytest.approx(expected)


def test_squared_cv_has_a_gradient_at_balance_and_at_zero():
    for value in (1.5, 0.0):
        v = Tensor(np.full(4, value), requires_grad=True)
        SquaredCV.apply(v).backward()
        np.testing.assert_array_equal(v.grad, 0)
    assert SquaredCV.apply(Tensor(np.array([3.0]))).item() == 0  # one number has no variation


def test_importance_is_the_cv_of_summed_gate_weights():
    g = trace(draw(7, 3), 2)
    v = np.bincount(g.candidates.expert, g.gate.data, 3)
    assert Importance()(g).item() == pytest.approx(v.var(ddof=1) / v.mean() ** 2)
    np.testing.assert_allclose(SumByExpert.apply(g.gate, g.candidates.expert, num_experts=3).data, v)


def test_importance_of_the_whole_softmax_counts_experts_that_were_not_chosen():
    h = draw(7, 3)
    v = softmax(h).sum(axis=0)
    assert Importance(of="softmax", ddof=0)(trace(h, 2)).item() == pytest.approx(v.var() / v.mean() ** 2)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_load_probabilities_are_the_frequencies_of_being_chosen_with_fresh_noise(k):
    """P_te against drawing only the noise of expert e again, the others' noise kept."""
    rng = np.random.default_rng(0)
    h, sigma = draw(1, 4), np.array([[0.5, 1.0, 2.0, 0.7]])
    noisy = h + sigma * draw(1, 4, seed=1)
    p = LoadProbability.apply(h, sigma, noisy, k=k).data
    for e in range(4):
        anew = np.repeat(noisy, 20_000, axis=0)
        anew[:, e] = h[0, e] + sigma[0, e] * rng.standard_normal(20_000)
        chosen = np.argsort(-anew, axis=1)[:, :k]
        assert p[0, e] == pytest.approx((chosen == e).any(axis=1).mean(), abs=0.015)


def test_load_probabilities_sum_to_k_in_expectation_and_follow_the_true_load():
    rng = np.random.default_rng(0)
    h, sigma = np.repeat(draw(1, 5), 20_000, axis=0), np.full((20_000, 5), 0.8)
    noisy = h + sigma * rng.standard_normal(h.shape)
    p = LoadProbability.apply(h, sigma, noisy, k=2).data.mean(axis=0)
    true = np.bincount(np.argsort(-noisy, axis=1)[:, :2].reshape(-1), minlength=5) / 20_000
    assert p.sum() == pytest.approx(2, abs=0.02)
    np.testing.assert_allclose(p, true, atol=0.02)


def test_with_all_as_rivals_the_threshold_is_the_kth_noisy_logit_for_every_expert():
    h, noisy = np.array([[1.0, 0.0, -1.0]]), np.array([[0.5, 0.25, -2.0]])
    p = LoadProbability.apply(h, np.full((1, 3), 0.5), noisy, k=2, rivals="all").data
    np.testing.assert_allclose(p, ndtr(np.array([[1.5, -0.5, -2.5]])))
    h = np.repeat(draw(1, 5), 5000, axis=0)
    noisy = h + np.random.default_rng(0).standard_normal(h.shape)
    biased = LoadProbability.apply(h, np.ones_like(h), noisy, k=2, rivals="all").data.sum(axis=1).mean()
    assert biased < 1.9  # the chosen compete against themselves: the load does not sum to k


@pytest.mark.parametrize("rivals", ["others", "all"])
@pytest.mark.parametrize("k", [1, 2])
def test_the_load_has_a_gradient_through_logits_noise_and_thresholds(rivals, k):
    h, sigma = draw(4, 4), 0.5 + draw(4, 4, seed=1) ** 2
    report = gradcheck(
        lambda h, sigma, noisy: LoadProbability.apply(h, sigma, noisy, k=k, rivals=rivals),
        [h, sigma, h + sigma * draw(4, 4, seed=2)],
    )
    report.raise_if_failed()
    assert report.skipped == 0


def test_with_all_experts_chosen_the_load_probability_is_one():
    inputs = [Tensor(draw(2, 3, seed=i) ** 2, requires_grad=True) for i in range(3)]
    p = LoadProbability.apply(*inputs, k=3)
    p.backward(np.ones((2, 3)))
    np.testing.assert_array_equal(p.data, 1)
    assert all(x.grad is None or not x.grad.any() for x in inputs)


def test_load_without_noise_is_that_of_the_counts_and_constant():
    g = trace(draw(6, 3), 1)
    loss = Load()(g)
    assert loss.item() == pytest.approx(g.load.var(ddof=1) / g.load.mean() ** 2)
    assert not loss.requires_grad


@pytest.mark.parametrize("noise", [ShazeerNoise(), NormalNoise(), NormalNoise(0.0)], ids=repr)
def test_load_of_a_noisy_router_is_finite_and_reaches_it(noise):
    config = RouterConfig(TopK(2), noise=noise, losses=(Load(1.0),))
    router = Router(config, 3, 4, rng=np.random.default_rng(0), dtype=np.float64)
    routing = router(Tensor(draw(10, 3)), Batch(10, True, np.random.default_rng(1)))
    assert routing.losses["load"].item() > 0
    if noise != NormalNoise(0.0):
        routing.auxiliary_loss.backward()
        assert np.abs(router.weight.grad).max() > 0


# Entropies


def test_local_entropy_is_the_mean_entropy_of_tokens():
    h = draw(5, 3)
    p = softmax(h)
    assert LocalEntropy()(trace(h)).item() == pytest.approx(-(p * np.log(p)).sum() / 5)
    assert LocalEntropy()(trace(np.zeros((4, 3)))).item() == pytest.approx(np.log(3))
    assert LocalEntropy()(trace(np.zeros((0, 3)))).item() == 0


def test_global_entropy_is_zero_once_enough_experts_are_in_use():
    h = draw(5, 3)
    p = softmax(h).mean(axis=0)
    entropy = -(p * np.log(p)).sum()
    assert GlobalEntropy(tau=np.log(3))(trace(h)).item() == pytest.approx(np.log(3) - entropy)
    assert GlobalEntropy(tau=0.5)(trace(h)).item() == 0


# All of them


@pytest.mark.parametrize(
    "loss",
    [
        SwitchBalance(),
        SwitchBalance(scope="sequence", at_balance="k"),
        SwitchBalance(scope="global"),
        SwitchBalance(scoring=Sigmoid),
        ZLoss(),
        Importance(),
        Load(),
        LocalEntropy(),
        GlobalEntropy(1.0),
    ],
    ids=repr,
)
def test_losses_keep_float32(loss):
    g = trace(draw(6, 4), 2, sequence_length=3, dtype=np.float32)
    value = loss(g)
    assert value.dtype == np.float32
    assert value.shape == ()
    if value.requires_grad:
        value.backward()
        assert g.logits.grad.dtype == np.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scope": "layer"}, "scope must be one of batch, sequence, global, got 'layer'"),
        ({"count": "second"}, "count must be one of all, first, unbiased, got 'second'"),
        ({"at_balance": 2}, "at_balance must be 1 or 'k', got 2"),
        ({"scope": "global", "count": "first"}, "count='first' has no global scope"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SwitchBalance(**settings)


def test_unknown_ways_to_count_importance_and_load_are_named():
    with pytest.raises(ValueError, match="of must be gates or softmax, got 'logits'"):
        Importance(of="logits")
    with pytest.raises(ValueError, match="rivals must be others or all, got 'none'"):
        Load(rivals="none")


# Underflow


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_entropies_of_probabilities_that_underflow(dtype):
    h = [[0, -120], [5, -110]]
    for loss, expected in ((GlobalEntropy(0.5), 0.5), (LocalEntropy(), 0)):
        t = trace(h, dtype=dtype)
        value = loss(t)
        value.backward()
        assert value.item() == pytest.approx(expected)
        np.testing.assert_allclose(t.logits.grad, np.zeros((2, 2)), atol=1e-40)


@pytest.mark.parametrize("h", [[[0, -1000.0]], [[-np.inf, 3.0]], [[0, -np.inf], [0, -1000]], [[7.0]], [[7.0], [-7.0]]])
def test_a_certain_choice_has_no_entropy(h):
    for loss, expected in ((GlobalEntropy(0.25), 0.25), (LocalEntropy(), 0)):
        t = trace(h)
        value = loss(t)
        value.backward()
        assert value.item() == pytest.approx(expected)
        assert not t.logits.grad.any()


def test_the_gradient_of_the_entropy_of_a_small_mean():
    h = np.array([[0, -60.0], [1, -61.0]])
    t = trace(h)
    GlobalEntropy(0.5)(t).backward()
    p = np.exp([-60, -62.0])  # of expert 1; the mean P has dL/dP = ln P + 1 - (ln (1 - P) + 1)
    np.testing.assert_allclose(t.logits.grad[:, 1], np.log(p.mean()) * p / 2, rtol=1e-12)


def test_all_experts_excluded_or_one_infinite_make_the_z_loss_infinite():
    with np.errstate(all="ignore"):
        for h in ([[-np.inf, -np.inf]], [[np.inf, 0.0]], [[np.inf, -np.inf], [0.0, 0.0]]):
            assert RouterZLoss.apply(Tensor(np.array(h))).item() == np.inf
    assert RouterZLoss.apply(Tensor(np.array([[-np.inf, 2.0]]))).item() == 4


def test_losses_of_layers_without_tokens_are_zero():
    assert balance_of_layers([Tensor(np.zeros((0, 3)))] * 2, [np.zeros(3)] * 2).item() == 0
    assert GlobalEntropy(0.5)(trace(np.zeros((0, 3)))).item() == 0


def test_the_load_without_any_noise_left_is_the_count():
    router = Router(RouterConfig(TopK(1), noise=ShazeerNoise(epsilon=0.0)), 1, 3, rng=np.random.default_rng(0))
    router.noise_weight.data[:] = -200  # softplus underflows
    router.weight.data[:] = [[0.0], [1.0], [1.0]]
    x = Tensor(np.ones((4, 1), np.float32), requires_grad=True)
    shown = router(x, Batch(4, True, np.random.default_rng(0))).trace
    assert not shown.sigma.data.any()
    loss = Load()(shown)  # of two equal experts the first is chosen, and either would be, half of the time
    loss.backward()
    assert loss.item() == pytest.approx(SquaredCV.apply(Tensor(np.array([0.0, 2.0, 2.0]))).item())
    assert np.isfinite(router.noise_weight.grad).all()
