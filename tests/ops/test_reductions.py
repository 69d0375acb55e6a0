import warnings

import numpy as np
import pytest

from moe_numpy.autodiff import Tensor, decisions
from moe_numpy.ops import LogSumExp, Max, Mean, Sum


@pytest.mark.parametrize("op", [Sum, Mean])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (-1, 1), ()])
def test_sum_and_mean_agree_with_numpy(op, axis, keepdims, rng):
    x = Tensor(rng.standard_normal((2, 3, 4)), requires_grad=True)
    y = op.apply(x, axis=axis, keepdims=keepdims)
    expected = getattr(np, op.__name__.lower())(x.data, axis=axis, keepdims=keepdims)
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.data, expected)
    g = rng.standard_normal(y.shape)
    y.backward(np.asarray(g))
    kept = g if axis is None or keepdims else np.expand_dims(g, axis)
    np.testing.assert_allclose(x.grad, np.broadcast_to(kept, x.shape) * (expected.size / x.size) ** (op is Mean))


@pytest.mark.parametrize("op", [Sum, Mean, Max])
def test_float32_stays(op):
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    y = op.apply(x)
    assert y.dtype == np.float32
    y.backward()
    assert x.grad.dtype == np.float32


def test_max_gives_the_gradient_to_the_first_of_equals():
    x = Tensor(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), requires_grad=True)
    y = Max.apply(x, axis=1)
    np.testing.assert_array_equal(y.data, [3, 2])
    y.backward(np.array([5.0, 7.0]))
    np.testing.assert_array_equal(x.grad, [[0, 5, 0], [7, 0, 0]])


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_max_agrees_with_numpy(axis, keepdims, rng):
    x = rng.standard_normal((2, 3, 4))
    y = Max.apply(x, axis=axis, keepdims=keepdims)
    np.testing.assert_array_equal(y.data, x.max(axis=axis, keepdims=keepdims))


def test_max_records_which_entry_it_chose():
    x = np.array([[1.0, 4.0], [2.5, 2.0], [0.0, 9.0]])
    with decisions.recording() as made:
        Max.apply(x, axis=-1)
        Max.apply(x[:, :1], axis=-1)
    np.testing.assert_array_equal(made[0].chosen, [1, 0, 1])
    assert made[0].explain(1) == "row 1: the largest entry leads by 5.0e-01"
    assert made[1].explain(2) == "row 2 has one entry"


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
def test_logsumexp_by_its_formula(axis, rng):
    x = rng.standard_normal((2, 3, 4))
    expected = np.log(np.exp(x).sum(axis=axis))
    y = LogSumExp.apply(x, axis=axis)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y.data, expected)


def test_logsumexp_does_not_overflow():
    x = np.array([[1000.0, 1000.0], [-1000.0, -np.inf]], np.float32)
    y = LogSumExp.apply(x, axis=-1)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.data, [1000 + np.log(2), -1000], rtol=1e-6)


def test_logsumexp_of_nothing_but_minus_infinity_is_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isnan(LogSumExp.apply(np.full(3, -np.inf), axis=0).item())
