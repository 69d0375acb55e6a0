"""Sixteen traps. Each check passes with the library and fails when one of its mistakes is put in."""

from contextlib import nullcontext
from dataclasses import replace

import mistakes
import numpy as np
import pytest
from by_hand import combined, sigmoid, softmax

from moe_numpy.autodiff import Tensor, substitute
from moe_numpy.moe import Batch, MoE, Router, RouterConfig, recipes
from moe_numpy.moe.assignment import BalancedAssignment, Sinkhorn
from moe_numpy.moe.balancers import LossFreeBias
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.dispatch import STRATEGIES, Combine, dispatch_sorted
from moe_numpy.moe.experts import GroupedSwiGLU, SwiGLUExperts
from moe_numpy.moe.gates import Gate, PickScores, Renormalize
from moe_numpy.moe.losses import BalanceLoss, LoadProbability, SwitchBalance
from moe_numpy.moe.noise import Jitter
from moe_numpy.moe.selection import Dense, ExpertChoice, GroupLimited, Threshold, TopK
from moe_numpy.ops import Affine, Sigmoid, Softmax

D, F, E = 5, 6, 4


def make(config, router=Router, num_experts=E, dtype=np.float64):
    layer = MoE(D, F, num_experts, config, rng=np.random.default_rng(0), dtype=dtype)
    layer.router.__class__ = router
    return layer


def tokens(*shape, seed=1):
    return Tensor(np.random.default_rng(seed).standard_normal((*shape, D)), requires_grad=True)


def caught(check, *args, instead_of=None, put=None, **settings):
    """The check fails with this mistake."""
    with substitute(instead_of, put) if put else nullcontext(), pytest.raises(AssertionError):
        check(*args, **settings)


# 1. k = 1 with renormalisation, or softmax after top-1: no task gradient for the router.


def check_trap_01(config):
    layer = make(config)
    y, _ = layer(tokens(8))
    y.backward(np.random.default_rng(2).standard_normal(y.shape))
    assert np.abs(layer.router.weight.grad).max() > 1e-3


def test_trap_01_one_expert_and_its_gate_normalised():
    check_trap_01(RouterConfig(TopK(1), gates=()))
    caught(check_trap_01, mistakes.renormalized_top_1())
    caught(check_trap_01, mistakes.softmax_after_top_1())


# 2. Counts, indices, positions and the bias are constants.


def check_trap_02(balancer=LossFreeBias):
    config = RouterConfig(
        TopK(2), scores=Sigmoid, gates=(Gate(Renormalize),), balancer=balancer(0.1), capacity=Capacity(0.75)
    )
    router = make(config).router
    router.balancer_state.data[:] = [0.9, -0.9, 0.4, -0.4]
    x = tokens(6)
    routing = router(x, Batch(6))

    s = sigmoid(x.data @ router.weight.data.T)
    biased = s + router.balancer_state.data
    for t, e, w in zip(routing.token, routing.expert, routing.gate.data, strict=True):
        best = np.argsort(-biased[t], kind="stable")[:2]
        assert e in best
        assert w == pytest.approx(s[t, e] / s[t, best].sum())
    assert {a.dtype.kind for a in (routing.token, routing.expert, routing.offsets)} == {"i"}
    assert not router.balancer_state.requires_grad

    token, expert = np.array([0, 0, 1]), np.array([1, 2, 0])
    p = Tensor(softmax(np.random.default_rng(3).standard_normal((2, 3))), requires_grad=True)
    PickScores.apply(p, token, expert).backward(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(p.grad, [[0, 1, 2], [3, 0, 0]])

    p.grad = None
    f = np.array([[0.5, 0.25, 0.25]])
    BalanceLoss.apply(p, f).backward()
    np.testing.assert_allclose(p.grad, np.tile(3 * f / 2, (2, 1)))


def test_trap_02_constants_have_no_gradient_and_the_bias_stays_out_of_the_gates():
    check_trap_02()
    caught(check_trap_02, mistakes.BiasAddedInPlace)
    caught(check_trap_02, instead_of=PickScores, put=mistakes.PickScoresStraightThrough)
    caught(check_trap_02, instead_of=BalanceLoss, put=mistakes.BalanceLossOfSoftCounts)


# 3. Excluded groups are masked with -∞, not with 0.


def check_trap_03(selection):
    scores = sigmoid(np.random.default_rng(0).standard_normal((50, 8))) - 2  # the bias has made them all negative
    candidates = selection(k=2, num_groups=4, top_groups=1)(scores, Batch(50))
    best_group = scores.reshape(50, 4, 2).sum(axis=2).argmax(axis=1)
    np.testing.assert_array_equal(candidates.expert // 2, best_group[candidates.token])


def test_trap_03_forbidden_groups_stay_forbidden_when_scores_are_negative():
    check_trap_03(GroupLimited)
    caught(check_trap_03, mistakes.GroupsMaskedWithZero)


# 4. f(s x) is not s f(x).


def check_trap_04(config):
    layer = make(config)
    x = tokens(7)
    y, routing = layer(x)
    s = sigmoid(x.data @ layer.router.weight.data.T)
    expected = combined(
        layer.experts, x.data, replace(routing, gate_on="input", gate=Tensor(s[routing.token, routing.expert]))
    )
    np.testing.assert_allclose(y.data, expected, rtol=1e-10)


def test_trap_04_a_gate_on_the_input_is_not_one_on_the_output():
    llama4 = recipes.llama4(shared_experts=0).router
    check_trap_04(llama4)
    caught(check_trap_04, mistakes.gate_the_output(llama4))


# 5. dispatch = (combine != 0) loses tokens whose gate weight underflows.


def check_trap_05(dispatch):
    layer = make(RouterConfig(TopK(2), gates=()))
    x = tokens(3)
    routing = layer.router(x, Batch(3))
    gate = Tensor(routing.gate.data.copy(), requires_grad=True)
    gate.data[1] = 0  # as if it had underflowed
    routing = replace(routing, gate=gate)
    y = dispatch(x, routing, layer.experts)
    dy = np.random.default_rng(2).standard_normal(y.shape)
    y.backward(dy)
    ones = replace(routing, gate=Tensor(np.ones(6)))
    for n in range(6):
        only = replace(ones, token=ones.token[n : n + 1], expert=ones.expert[n : n + 1], gate=Tensor(np.ones(1)))
        assert gate.grad[n] == pytest.approx((combined(layer.experts, x.data, only) * dy).sum())


def test_trap_05_a_gate_of_zero_still_sends_its_token():
    for dispatch in STRATEGIES.values():
        check_trap_05(dispatch)
    caught(check_trap_05, mistakes.dispatch_by_nonzero_gates)


# 6. Jitter reaches the router only, and training only.


def check_trap_06(noise=Jitter, router=Router):
    layer = make(RouterConfig(TopK(1), gates=(), noise=noise(0.3)), router)
    clean = tokens(20)
    x = Tensor(clean.data.copy())
    y, routing = layer(x, np.random.default_rng(0))
    np.testing.assert_allclose(y.data, combined(layer.experts, clean.data, routing), rtol=1e-10, atol=1e-13)
    assert not np.allclose(routing.trace.logits.data, clean.data @ layer.router.weight.data.T)

    layer.eval()
    runs = [layer(Tensor(clean.data.copy()), np.random.default_rng(seed))[0].data for seed in (0, 1)]
    np.testing.assert_array_equal(*runs)


def test_trap_06_noise_stays_away_from_experts_and_from_evaluation():
    check_trap_06()
    caught(check_trap_06, mistakes.JitterInPlace)
    caught(check_trap_06, router=mistakes.RouterNoisyInEvaluation)


# 7. A dropped token contributes zero.


def check_trap_07(dispatch):
    layer = make(recipes.switch(capacity_factor=0.5, eval_capacity_factor=None))
    x = tokens(12)
    routing = layer.router(x, Batch(12))
    dropped = routing.statistics.dropped.token
    assert len(dropped) > 0
    np.testing.assert_array_equal(dispatch(x, routing, layer.experts).data[dropped], 0)


def test_trap_07_a_dropped_token_contributes_zero():
    for dispatch in STRATEGIES.values():
        check_trap_07(dispatch)
    caught(check_trap_07, mistakes.dispatch_passing_dropped_tokens)


# 8. Load thresholds are logits.


def check_trap_08():
    rng = np.random.default_rng(0)
    h = np.repeat(rng.standard_normal((4, 6)), 5000, axis=0)
    sigma = np.full_like(h, 0.7)
    p = LoadProbability.apply(h, sigma, h + sigma * rng.standard_normal(h.shape), k=2).data
    np.testing.assert_allclose(p.reshape(4, 5000, 6).mean(axis=1).sum(axis=1), 2, atol=0.03)


def test_trap_08_the_expected_load_of_a_token_sums_to_k():
    check_trap_08()
    caught(check_trap_08, instead_of=LoadProbability, put=mistakes.LoadWithThresholdsInProbabilities)


# 9. Answers go back to their tokens, and all of them.


def check_trap_09():
    layer = make(recipes.mixtral())
    x = tokens(9)
    y, routing = layer(x)
    np.testing.assert_allclose(y.data, combined(layer.experts, x.data, routing), rtol=1e-10)


def test_trap_09_every_answer_comes_back_to_its_token():
    check_trap_09()
    caught(check_trap_09, instead_of=Combine, put=mistakes.CombineInExpertOrder)
    caught(check_trap_09, instead_of=Combine, put=mistakes.CombineLosingDuplicates)


# 10. Ties go to the lowest index, forward and backward.


def check_trap_10(selection=TopK):
    scores = np.array([[0.2, 0.5, 0.5, 0.5], [0.25, 0.25, 0.25, 0.25], [0.5, 0.1, 0.5, 0.1]])
    candidates = selection(2)(scores, Batch(3))
    assert candidates.expert.tolist() == [1, 2, 0, 1, 0, 2]
    p = Tensor(scores, requires_grad=True)
    PickScores.apply(p, candidates.token, candidates.expert).backward(np.ones(6))
    np.testing.assert_array_equal(p.grad, [[0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0]])


def test_trap_10_ties_are_decided_once_for_the_lowest_index():
    check_trap_10()
    caught(check_trap_10, mistakes.TopKFromTheEnd)
    caught(check_trap_10, instead_of=PickScores, put=mistakes.PickScoresChoosingAgain)


# 11. An idle expert gets a zero gradient, not none and not NaN.


def check_trap_11(experts=SwiGLUExperts):
    layer = make(RouterConfig(TopK(1), gates=()))
    layer.experts = experts(E, D, F, rng=np.random.default_rng(0), dtype=np.float64)
    y, routing = layer(tokens(1))
    y.backward(np.ones(y.shape))
    (busy,) = routing.expert
    for parameter in layer.experts.parameters():
        assert parameter.grad is not None
        assert np.isfinite(parameter.grad).all()
        sizes = np.abs(parameter.grad).max(axis=(1, 2))
        assert np.flatnonzero(sizes).tolist() == [busy]


def test_trap_11_an_idle_expert_gets_a_zero_gradient():
    check_trap_11()
    caught(check_trap_11, instead_of=GroupedSwiGLU, put=mistakes.GroupedSwiGLUAveraging)
    caught(check_trap_11, mistakes.ExpertsThatAreSkipped)


# 12. Expert choice sees the future.


def check_trap_12(selection):
    """The rule declares whether a token's experts depend on later tokens, and that is true."""
    layer = make(RouterConfig(selection, gates=()))
    moved = False
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal((2, 6, D))
        later = x.copy()
        later[:, -1] *= -3
        before, after = (layer(Tensor(v))[0].data for v in (x, later))
        moved |= not np.allclose(before[:, :-1], after[:, :-1])
    assert moved == (not selection.causal)


@pytest.mark.parametrize(
    "selection",
    [
        TopK(2),
        GroupLimited(2, 2, 1),
        Dense(),
        Threshold(0.25),
        ExpertChoice(1.0),
        ExpertChoice(1.0, scope="batch"),
        Sinkhorn(1),
        BalancedAssignment(),
    ],
    ids=repr,
)
def test_trap_12_a_rule_that_sees_the_future_says_so(selection):
    check_trap_12(selection)


def test_trap_12_a_rule_that_hides_it_is_found_out():
    caught(check_trap_12, mistakes.ExpertChoiceCalledCausal(1.0))


# 13. The auxiliary loss looks at all experts, and its gradient arrives.


def check_trap_13(loss=SwitchBalance, router=Router):
    router = make(RouterConfig(TopK(2), losses=(loss(0.5),)), router).router
    x = tokens(6)
    routing = router(x, Batch(6))
    p = softmax(x.data @ router.weight.data.T)
    chosen = np.argsort(-p, axis=1, kind="stable")[:, :2]
    f = np.bincount(chosen.reshape(-1), minlength=E) / 12
    assert routing.auxiliary_loss is not None
    assert routing.auxiliary_loss.requires_grad
    assert routing.auxiliary_loss.item() == pytest.approx(0.5 * E * (f * p.mean(axis=0)).sum())
    routing.auxiliary_loss.backward()
    dp = np.tile(0.5 * E * f / 6, (6, 1))
    dh = p * (dp - (dp * p).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(router.weight.grad, dh.T @ x.data, rtol=1e-10)


def test_trap_13_the_auxiliary_loss_reaches_all_experts():
    check_trap_13()
    caught(check_trap_13, mistakes.BalanceOfTheSelected)
    caught(check_trap_13, mistakes.BalanceWithoutGradient)
    caught(check_trap_13, router=mistakes.RouterForgettingItsLoss)


# 14. The bias moves once per optimizer step.


def check_trap_14(router=Router):
    router = make(RouterConfig(TopK(1), gates=(), balancer=LossFreeBias(0.125)), router).router
    load = 0
    for seed in range(3):  # three micro-batches
        routing = router(tokens(8, seed=seed), Batch(8, training=True))
        load = load + routing.statistics.load
        np.testing.assert_array_equal(router.balancer_state.data, 0)
    router.after_step()
    expected = 0.125 * np.sign(load.mean() - load)
    assert np.abs(expected).max() > 0
    np.testing.assert_array_equal(router.balancer_state.data, expected)
    router(tokens(8), Batch(8))  # evaluation is not observed
    router.after_step()
    np.testing.assert_array_equal(router.balancer_state.data, expected)


def test_trap_14_the_bias_moves_once_per_step():
    check_trap_14()
    caught(check_trap_14, mistakes.RouterUpdatingEveryForward)


# 15. Without capacity, a token does not depend on the tokens that share its batch.


def check_trap_15(config):
    layer = make(config)
    x = np.repeat(tokens(4).data, 3, axis=0)  # in threes, so that a capacity would not suffice
    together = layer(Tensor(x))[0].data
    alone = np.concatenate([layer(Tensor(row[None]))[0].data for row in x])
    np.testing.assert_allclose(together, alone, rtol=1e-10)


def test_trap_15_a_token_does_not_depend_on_the_other_tokens():
    mixtral = recipes.mixtral().router
    check_trap_15(mixtral)
    caught(check_trap_15, mixtral, instead_of=Softmax, put=mistakes.SoftmaxOverTheBatch)
    caught(check_trap_15, mistakes.give_it_a_capacity(mixtral))


# 16. The router does not compute in bfloat16.


def check_trap_16():
    router = Router(RouterConfig(TopK(2)), 64, 32, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((1000, 64)).astype(np.float32)
    routing = router(Tensor(x), Batch(1000))
    h = x.astype(np.float64) @ router.weight.data.T.astype(np.float64)
    ranked = -np.sort(-h, axis=1)
    clear = np.flatnonzero(ranked[:, 1] - ranked[:, 2] > 1e-5)
    assert len(clear) > 900
    chosen = {t: set() for t in range(1000)}
    for t, e in zip(routing.token.tolist(), routing.expert.tolist(), strict=True):
        chosen[t].add(e)
    best = np.argsort(-h, axis=1)[:, :2]
    assert all(chosen[t] == set(best[t].tolist()) for t in clear)


def test_trap_16_float32_chooses_what_exact_arithmetic_chooses():
    check_trap_16()
    caught(check_trap_16, instead_of=Affine, put=mistakes.AffineInBfloat16)


def test_every_mistake_is_in_the_exhibit_of_its_trap():
    shown = [mistake for exhibit in mistakes.EXHIBITS.values() for mistake in exhibit]
    defined = [m for m in vars(mistakes).values() if (getattr(m, "__doc__", None) or "").startswith("Mistake: ")]
    assert len(shown) == len(set(shown))
    assert set(shown) == set(defined)
    assert list(mistakes.EXHIBITS) == list(range(1, 17))


def test_the_default_dispatch_is_the_one_that_the_checks_run():
    assert make(recipes.mixtral()).dispatch == "sorted"
    assert STRATEGIES["sorted"] is dispatch_sorted
