import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from moe_numpy.autodiff import Tensor, decisions
from moe_numpy.ops import (
    GELU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    SwiGLU,
    Tanh,
)

ENTRYWISE = {
    ReLU: lambda x: max(x, 0.0),
    Sigmoid: lambda x: 1 / (1 + math.exp(-x)),
    Tanh: math.tanh,
    Softplus: lambda x: math.log(1 + math.exp(x)),
    GELU: lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    SiLU: lambda x: x / (1 + math.exp(-x)),
}
POINTS = [-3.0, -1.0, -0.1, 0.0, 0.5, 2.0]


@pytest.mark.parametrize("op", ENTRYWISE)
def test_values_by_the_formula(op):
    y = op.apply(np.array(POINTS))
    np.testing.assert_allclose(y.data, [ENTRYWISE[op](x) for x in POINTS], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("op", [*ENTRYWISE, Softmax, LogSoftmax])
def test_extreme_float32_input_gives_finite_values_and_gradients_without_a_warning(op):
    x = Tensor(np.array([-1e4, -90.0, 0.0, 90.0, 1e4], np.float32), requires_grad=True)
    y = op.apply(x)
    y.backward(np.ones(5, np.float32))
    for array in (y.data, x.grad):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()


@pytest.mark.parametrize("op", [*ENTRYWISE, Softmax])
def test_a_nan_is_not_hidden(op):
    assert np.isnan(op.apply(np.array([np.nan, 1.0])).data[0])


@pytest.mark.parametrize("x", [-30.0, -80.0])
def test_small_sigmoids_are_accurate_in_float32(x):
    y = Sigmoid.apply(np.array([x], np.float32))
    assert y.item() == pytest.approx(math.exp(x), rel=1e-5)


def test_relu_has_slope_zero_at_zero():
    x = Tensor(np.array([-1.0, 0.0, 2.0]), requires_grad=True)
    ReLU.apply(x).backward(np.ones(3))
    np.testing.assert_array_equal(x.grad, [0, 0, 1])


def test_relu_records_the_signs_it_saw():
    with decisions.recording() as made:
        ReLU.apply(np.array([[1.0, -2e-7], [0.0, 3.0]]))
    np.testing.assert_array_equal(made[0].chosen, [True, False, False, True])
    assert made[0].explain(1) == "entry 1 of x with shape (2, 2) is -2.0e-07"


def test_tanh_gelu_is_close_to_the_exact_one():
    x = np.linspace(-5, 5, 101)
    exact, approximate = GELU.apply(x).data, GELU.apply(x, approximate="tanh").data
    assert 0 < abs(exact - approximate).max() < 1e-3
    assert GELU.apply(np.array([1.0]), approximate="tanh").item() == pytest.approx(0.8411919906)


def test_gelu_refuses_an_unknown_approximation():
    with pytest.raises(ValueError, match='approximate must be "none" or "tanh", got \'fast\''):
        GELU.apply(Tensor([1.0]), approximate="fast")


def test_swiglu_is_silu_of_the_gate_times_up(rng):
    gate, up = rng.standard_normal((2, 3, 4))
    np.testing.assert_allclose(SwiGLU.apply(gate, up).data, SiLU.apply(gate).data * up)


SCORES = arrays(np.float64, array_shapes(max_dims=3, max_side=4), elements=st.floats(-50, 50))


@given(x=SCORES, shift=st.floats(-100, 100), data=st.data())
def test_softmax_sums_to_one_and_ignores_a_shift(x, shift, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    y = Softmax.apply(x, axis=axis).data
    np.testing.assert_allclose(y.sum(axis=axis), 1)
    np.testing.assert_allclose(Softmax.apply(x + shift, axis=axis).data, y, rtol=1e-9)
    np.testing.assert_allclose(LogSoftmax.apply(x, axis=axis).data, np.log(y), rtol=1e-9, atol=1e-12)


def test_softmax_of_known_values():
    x = np.log(np.array([[1.0, 2.0, 5.0]]))
    np.testing.assert_allclose(Softmax.apply(x).data, [[0.125, 0.25, 0.625]])


def test_masked_entries_get_probability_and_gradient_zero():
    x = Tensor(np.array([[0.0, -np.inf, 0.0]]), requires_grad=True)
    y = Softmax.apply(x)
    np.testing.assert_array_equal(y.data, [[0.5, 0, 0.5]])
    y.backward(np.array([[1.0, 5.0, 0.0]]))
    np.testing.assert_allclose(x.grad, [[0.25, 0, -0.25]])


@pytest.mark.parametrize("op", [Softmax, LogSoftmax])
def test_a_row_with_everything_masked_is_nan(op):
    x = np.array([[-np.inf, -np.inf], [0.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = op.apply(x).data
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()


def test_log_softmax_is_exact_where_softmax_rounds_to_zero():
    y = LogSoftmax.apply(np.array([0.0, -1000.0], np.float32))
    np.testing.assert_array_equal(y.data, [0, -1000])
