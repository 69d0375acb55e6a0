import numpy as np
import pytest
from by_hand import softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor
from moe_numpy.moe.gates import Gate, PickScores, PNormalize, Renormalize, Scale, SelectedSoftmax, SqrtSoftplus
from moe_numpy.ops import Softmax

# Six assignments of four tokens: three for token 0, none for token 3.
TOKEN = np.array([0, 2, 0, 1, 0, 2])


@st.composite
def assignments(draw):
    """Scores of some assignments, the token of each, and the number of tokens; tokens may be left without any."""
    num_tokens = draw(st.integers(1, 6))
    token = np.array(draw(st.lists(st.integers(0, num_tokens - 1), min_size=1, max_size=12)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return rng.standard_normal(len(token)), token, num_tokens, rng.standard_normal(len(token))


def run(function, s, token, num_tokens, cotangent, **settings):
    leaf = Tensor(s, requires_grad=True)
    w = function.apply(leaf, token, num_tokens=num_tokens, **settings)
    w.backward(cotangent)
    return w.data, leaf.grad


def test_an_expert_that_was_not_chosen_gets_a_zero_gradient_not_none():
    p = Tensor(np.array([[0.2, 0.8], [0.4, 0.6]]), requires_grad=True)
    PickScores.apply(p, np.array([0, 1]), np.array([1, 1])).backward(np.array([3.0, 5.0]))
    np.testing.assert_array_equal(p.grad, [[0, 3], [0, 5]])


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10_000))
def test_renormalised_probabilities_are_the_softmax_of_the_chosen_logits(num_tokens, top_k, seed):
    """Softmax then top-k then divide by the sum = top-k then softmax, in value and in derivative."""
    rng = np.random.default_rng(seed)
    num_experts = top_k + 2
    token, expert = np.repeat(np.arange(num_tokens), top_k), np.tile(np.arange(top_k), num_tokens)
    cotangent = rng.standard_normal(num_tokens * top_k)
    h = rng.standard_normal((num_tokens, num_experts))

    full = Tensor(h, requires_grad=True)
    w = Gate(Renormalize)(PickScores.apply(Softmax.apply(full, axis=-1), token, expert), token, num_tokens)
    w.backward(cotangent)

    logits = Tensor(h, requires_grad=True)
    direct = Gate(SelectedSoftmax)(PickScores.apply(logits, token, expert), token, num_tokens)
    direct.backward(cotangent)

    np.testing.assert_allclose(w.data, direct.data, rtol=1e-12)
    np.testing.assert_allclose(w.data.reshape(num_tokens, top_k), softmax(h[:, :top_k]), rtol=1e-12)
    np.testing.assert_allclose(full.grad, logits.grad, atol=1e-12)


@settings(deadline=None)
@given(assignments())
def test_selected_softmax_is_exp_renormalised_for_any_number_of_experts(case):
    h, token, num_tokens, cotangent = case
    w, dh = run(SelectedSoftmax, h, token, num_tokens, cotangent)
    other, ds = run(Renormalize, np.exp(h), token, num_tokens, cotangent)
    np.testing.assert_allclose(w, other, rtol=1e-12)
    np.testing.assert_allclose(dh, ds * np.exp(h), atol=1e-12)


@settings(deadline=None)
@given(assignments())
def test_the_1_norm_of_positive_scores_is_their_sum(case):
    h, token, num_tokens, cotangent = case
    s = np.exp(h)
    for one, other in zip(
        run(PNormalize, s, token, num_tokens, cotangent, p=1.0),
        run(Renormalize, s, token, num_tokens, cotangent),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_p_normalised_gate_weights_have_p_norm_one():
    s = np.array([3.0, 1.0, 4.0, 2.0, 12.0, 1.0])
    w = Gate(PNormalize, p=2.0)(Tensor(s), TOKEN, 4).data
    np.testing.assert_allclose(w, [3 / 13, 0.5**0.5, 4 / 13, 1, 12 / 13, 0.5**0.5])


def test_epsilon_is_in_the_denominator_and_allows_a_sum_of_zero():
    w = Gate(Renormalize, epsilon=1.0)(Tensor(np.array([1.0, 0.0, 2.0])), np.array([0, 1, 0]), 2)
    np.testing.assert_array_equal(w.data, [0.25, 0, 0.5])


def test_one_renormalised_expert_gives_the_router_no_gradient():
    w, ds = run(Renormalize, np.array([0.3, 0.9]), np.array([0, 1]), 2, np.array([2.0, -1.0]))
    np.testing.assert_array_equal(w, [1, 1])
    np.testing.assert_array_equal(ds, [0, 0])


def test_selected_softmax_survives_logits_that_exp_does_not():
    w, dh = run(SelectedSoftmax, np.array([1e4, -1e4, 1e4]), np.array([0, 0, 0]), 1, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(w, [0.5, 0, 0.5])
    np.testing.assert_array_equal(dh, [-0.5, 0, 0.5])


def test_scale_multiplies():
    np.testing.assert_array_equal(Scale(2.5)(Tensor(np.array([0.5, 2.0])), np.array([0, 1]), 2).data, [1.25, 5])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sqrt_softplus_from_end_to_end(dtype):
    h = Tensor(np.array([[-1e4, -30, 0, 30, 1e4]], dtype), requires_grad=True)
    s = SqrtSoftplus.apply(h)
    s.backward(np.ones((1, 5), dtype))
    assert s.dtype == h.grad.dtype == dtype
    np.testing.assert_allclose(s.data[0], [0, np.exp(-15), np.log(2) ** 0.5, 30**0.5, 100], rtol=1e-6)
    slopes = [0, np.exp(-15) / 2, 0.25 / np.log(2) ** 0.5, 0.5 / 30**0.5, 0.005]
    np.testing.assert_allclose(h.grad[0], slopes, rtol=1e-6)


@pytest.mark.parametrize(
    "step", [Gate(Renormalize, epsilon=0.1), Gate(SelectedSoftmax), Gate(PNormalize, p=3.0), Scale(16.0)], ids=repr
)
def test_every_step_keeps_float32(step):
    s = Tensor(np.linspace(0.1, 0.9, 6, dtype=np.float32), requires_grad=True)
    w = step(s, TOKEN, 4)
    w.backward(np.ones(6, np.float32))
    assert w.dtype == s.grad.dtype == np.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gate(PNormalize, p=0.0), "p must be positive, got 0.0"),
        (lambda: Gate(PNormalize, p=float("nan")), "p must be positive, got nan"),
        (lambda: Gate(Renormalize, epsilon=-1.0), "epsilon must not be negative, got -1.0"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Underflow and infinity


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gate", [Gate(Renormalize), Gate(PNormalize, p=1), Gate(PNormalize, p=2)], ids=repr)
def test_one_expert_has_weight_one_even_if_its_score_is_zero(gate, dtype):
    s = Tensor(np.array([0.0, 1e-45, 1e-310, 0.25], dtype), requires_grad=True)
    w = gate(s, np.array([3, 1, 0, 2]), 4)
    w.backward(np.array([1.0, 2.0, 3.0, 4.0], dtype))
    np.testing.assert_array_equal(w.data, np.ones(4, dtype))
    np.testing.assert_array_equal(s.grad, np.zeros(4, dtype))


def test_scores_that_are_all_zero_share_equally_and_leave_the_others_alone():
    s = np.array([0.0, 0.3, 0.0, 0.0, 0.0, 0.1])
    np.testing.assert_allclose(Gate(Renormalize)(Tensor(s), TOKEN, 4).data, [1 / 3, 0.75, 1 / 3, 1, 1 / 3, 0.25])
    np.testing.assert_allclose(
        Gate(Renormalize, epsilon=0.1)(Tensor(s), TOKEN, 4).data, [0, 0.6, 0, 0, 0, 0.2], rtol=1e-12
    )
    euclidean = Gate(PNormalize, p=2)(Tensor(s), TOKEN, 4).data
    np.testing.assert_allclose(euclidean[[0, 2, 3]], [3**-0.5, 3**-0.5, 1])
    with np.errstate(divide="ignore"):  # 1 - 1 is no underflow, and is not hidden
        assert np.isinf(Gate(Renormalize)(Tensor(np.array([1.0, -1.0])), np.array([0, 0]), 1).data).all()


def test_the_infinity_norm_is_the_largest_score():
    s, token = np.array([0.1, 0.4, 0.2, 0.3, 0.4, -0.5]), np.array([0, 0, 0, 1, 2, 2])
    w, ds = run(PNormalize, s, token, 3, np.array([1.0, 2.0, 3.0, 5.0, 1.0, 1.0]), p=np.inf)
    np.testing.assert_allclose(w, [0.25, 1, 0.5, 1, 0.8, -1])
    # Token 0: w = s / s_1, so ds_1 = -(1 · 0.1 + 3 · 0.2) / 0.16. Token 2: w = s / -s_5 and ds_5 = 0.4 / 0.25.
    np.testing.assert_allclose(ds, [2.5, -0.7 / 0.16, 7.5, 0, 2, 1.6])
    w, ds = run(PNormalize, np.array([0.5, 0.5]), np.array([0, 0]), 1, np.array([1.0, 0.0]), p=np.inf)
    assert (w.tolist(), ds.tolist()) == ([1, 1], [1, -1])  # halfway between the slopes on both sides
    large, dl = run(PNormalize, np.array([0.5, 0.5]), np.array([0, 0]), 1, np.array([1.0, 0.0]), p=1e6)
    np.testing.assert_allclose([*large, *dl], [1, 1, 1, -1], rtol=1e-5)


def test_powers_of_small_scores_do_not_underflow():
    w, ds = run(PNormalize, np.float32([0.01, 0.02]), np.array([0, 0]), 1, np.float32([1, 0]), p=100.0)
    np.testing.assert_allclose(w, [0.5, 1], rtol=1e-6)
    np.testing.assert_allclose(ds, [50, -25], rtol=1e-6)
