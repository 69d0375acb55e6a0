import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor
from moe_numpy.moe.gates import Jitter, Noise, NormalNoise, PickScores, Raw, Renormalize, Renormalized
from moe_numpy.ops import Softmax


def test_an_expert_that_nobody_chose_gets_a_zero_gradient_not_none():
    p = Tensor(np.array([[0.2, 0.8], [0.4, 0.6]]), requires_grad=True)
    PickScores.apply(p, np.array([0, 1]), np.array([1, 1])).backward(np.array([3.0, 5.0]))
    np.testing.assert_array_equal(p.grad, [[0, 3], [0, 5]])


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10_000))
def test_renormalised_probabilities_are_the_softmax_of_the_chosen_logits(num_tokens, top_k, seed):
    """Softmax then top-k then divide by the sum = top-k then softmax, in value and in derivative."""
    rng = np.random.default_rng(seed)
    num_experts = top_k + 2
    token, expert = np.repeat(np.arange(num_tokens), top_k), np.tile(np.arange(top_k), num_tokens)
    cotangent = rng.standard_normal(num_tokens * top_k)
    h = rng.standard_normal((num_tokens, num_experts))

    full = Tensor(h, requires_grad=True)
    picked = PickScores.apply(Softmax.apply(full, axis=-1), token, expert)
    w = Renormalized()(picked, token, num_tokens)
    w.backward(cotangent)

    chosen = Tensor(h[:, :top_k].copy(), requires_grad=True)
    direct = Softmax.apply(chosen, axis=-1)
    direct.backward(cotangent.reshape(num_tokens, top_k))

    np.testing.assert_allclose(w.data, direct.data.reshape(-1), rtol=1e-12)
    np.testing.assert_allclose(full.grad[:, :top_k], chosen.grad, atol=1e-12)
    np.testing.assert_allclose(full.grad[:, top_k:], 0, atol=1e-12)


def test_one_renormalised_expert_gives_the_router_no_gradient():
    s = Tensor(np.array([0.3, 0.9]), requires_grad=True)
    w = Renormalize.apply(s, np.array([0, 1]), num_tokens=2)
    w.backward(np.array([2.0, -1.0]))
    np.testing.assert_array_equal(w.data, [1, 1])
    np.testing.assert_array_equal(s.grad, [0, 0])


def test_raw_weights_are_the_scores_themselves():
    s = Tensor(np.array([0.3, 0.9]))
    assert Raw()(s, np.array([0, 1]), 2) is s


def test_jitter_stays_in_its_range_and_leaves_logits_alone():
    x = Tensor(np.full((200, 50), 2, np.float32))
    y = Jitter(0.1).on_input(x, np.random.default_rng(0)).data
    assert y.dtype == np.float32
    assert 1.8 <= y.min() < 1.81
    assert 2.19 < y.max() <= 2.2
    assert Jitter(0.1).on_logits(x, np.random.default_rng(0)) is x


@pytest.mark.parametrize(("std", "expected"), [(None, 1 / 50), (0.3, 0.3)])
def test_normal_noise_has_the_standard_deviation_it_says(std, expected):
    h = Tensor(np.zeros((2000, 50), np.float32))
    noisy = NormalNoise(std).on_logits(h, np.random.default_rng(0)).data
    assert noisy.dtype == np.float32
    assert noisy.std() == pytest.approx(expected, rel=0.02)
    assert NormalNoise(std).on_input(h, np.random.default_rng(0)) is h


def test_noise_does_nothing_unless_a_kind_says_so():
    h = Tensor(np.zeros((2, 2)))
    assert Noise().on_input(h, np.random.default_rng(0)) is h
    assert Noise().on_logits(h, np.random.default_rng(0)) is h


def test_noise_refuses_sizes_that_make_no_sense():
    with pytest.raises(ValueError, match=r"epsilon must be in \[0, 1\), got 1\.5"):
        Jitter(1.5)
    with pytest.raises(ValueError, match="std must not be negative, got -1"):
        NormalNoise(-1)
