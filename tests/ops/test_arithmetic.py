import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from moe_numpy.autodiff import Tensor
from moe_numpy.gradcheck import gradcheck
from moe_numpy.ops import Add, Cast, Divide, Log, Multiply, Power, Subtract, Where

pytestmark = pytest.mark.no_cover

NUMPY = {Add: np.add, Subtract: np.subtract, Multiply: np.multiply, Divide: np.divide}


@pytest.mark.parametrize("op", NUMPY)
@settings(max_examples=15, deadline=None)
@given(shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
def test_any_two_shapes_that_broadcast(op, shapes):
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.5, 2, shape) for shape in shapes.input_shapes)
    np.testing.assert_array_equal(op.apply(a, b).data, NUMPY[op](a, b))
    gradcheck(op.apply, [a, b], samples=4).raise_if_failed()


@pytest.mark.parametrize("op", NUMPY)
@pytest.mark.parametrize("number", [3, 0.1])
def test_a_python_number_on_either_side_keeps_float32(op, number):
    x = Tensor(np.array([1.5, -2.0], np.float32), requires_grad=True)
    for y in (op.apply(x, number), op.apply(number, x)):
        assert y.dtype == np.float32
        y.backward(np.ones(2, np.float32))
    np.testing.assert_allclose(op.apply(number, x).data, NUMPY[op](np.float32(number), x.data))


@pytest.mark.parametrize("op", NUMPY)
def test_a_constant_gets_no_gradient(op, rng):
    x = Tensor(rng.uniform(1, 2, 3), requires_grad=True)
    constant = Tensor(rng.uniform(1, 2, 3))
    op.apply(constant, x).backward(np.ones(3))
    op.apply(x, constant).backward(np.ones(3))
    assert constant.grad is None


def test_power_of_zero_has_gradient_zero():
    x = Tensor(np.array([0.0, 2.0]), requires_grad=True)
    Power.apply(x, exponent=0).backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [0, 0])


@pytest.mark.parametrize("exponent", [np.float64(2), "2", None, True])
def test_power_needs_a_python_number(exponent, unchecked):
    with pytest.raises(TypeError, match="exponent must be an int or a float, got"):
        Power.apply(Tensor([1.0]), exponent=exponent)


def test_cast_there_and_back():
    x = Tensor(np.array([1.25, 2.5]), requires_grad=True)
    y = Cast.apply(x, dtype=np.float32)
    assert y.dtype == np.float32
    y.backward(np.array([1, 2], np.float32))
    assert x.grad.dtype == np.float64
    np.testing.assert_array_equal(x.grad, [1, 2])
    assert not Cast.apply(x, dtype=np.int64).requires_grad


def test_where_with_numbers_keeps_float32():
    x = Tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    y = Where.apply(np.array([True, False]), x, -1.0)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.data, [1, -1])
    y.backward(np.array([5, 7], np.float32))
    np.testing.assert_array_equal(x.grad, [5, 0])


def test_log_is_natural():
    np.testing.assert_allclose(Log.apply(np.array([np.e, 1.0])).data, [1, 0])
