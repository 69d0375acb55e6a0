import numpy as np
import pytest
from by_hand import softmax

from moe_numpy.autodiff import Tensor
from moe_numpy.moe.mixture_1991 import MixtureLikelihood


def test_by_hand_for_two_experts():
    """g = (3/4, 1/4); expert 0 is right, expert 1 is off by 2: P = (1, e^-2)."""
    h = Tensor(np.log([[3.0, 1.0]]), requires_grad=True)
    o = Tensor(np.array([[[1.0], [3.0]]]), requires_grad=True)
    y = Tensor(np.array([[1.0]]), requires_grad=True)
    loss = MixtureLikelihood.apply(h, o, y)
    evidence = 0.75 + 0.25 * np.exp(-2)
    assert loss.item() == pytest.approx(-np.log(evidence))
    loss.backward()
    r = 0.25 * np.exp(-2) / evidence
    np.testing.assert_allclose(h.grad, [[0.75 - (1 - r), 0.25 - r]])
    np.testing.assert_allclose(o.grad, [[[0.0], [r * 2]]], atol=1e-15)
    np.testing.assert_allclose(y.grad, [[-r * 2]])


def test_the_gate_is_pulled_from_its_guess_to_the_posterior():
    rng = np.random.default_rng(0)
    h, o, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 3, 2)), rng.standard_normal((5, 2))
    gate = Tensor(h, requires_grad=True)
    MixtureLikelihood.apply(gate, o, y).backward()
    g = softmax(h)
    joint = g * np.exp(-0.5 * ((o - y[:, None]) ** 2).sum(axis=2))
    np.testing.assert_allclose(gate.grad, (g - joint / joint.sum(axis=1, keepdims=True)) / 5)


def test_experts_that_are_far_off_do_not_make_it_infinite():
    o = Tensor(np.array([[[1e3], [-1e3]]], np.float32), requires_grad=True)
    loss = MixtureLikelihood.apply(np.zeros((1, 2), np.float32), o, np.zeros((1, 1), np.float32))
    loss.backward()
    assert loss.dtype == o.grad.dtype == np.float32
    assert loss.item() == pytest.approx(5e5)
    np.testing.assert_allclose(o.grad, [[[500.0], [-500.0]]])


def test_competition_makes_specialists_where_the_error_of_the_sum_makes_all_experts_cooperate():
    """Two clusters of targets and two constant experts: the likelihood gives each its own cluster."""
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-3, 0.1, 40), rng.normal(3, 0.1, 40)])[:, None]
    o, h = np.array([[-0.1], [0.1]]), np.zeros(2)
    for _ in range(200):
        tensor = Tensor(np.tile(o, (80, 1, 1)), requires_grad=True)
        MixtureLikelihood.apply(np.tile(h, (80, 1)), tensor, y).backward()
        o -= tensor.grad.sum(axis=0)
    np.testing.assert_allclose(o[:, 0], [-3, 3], atol=0.1)


def test_no_tokens_cost_nothing():
    assert MixtureLikelihood.apply(np.zeros((0, 2)), np.zeros((0, 2, 3)), np.zeros((0, 3))).item() == 0
