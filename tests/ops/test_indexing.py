import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, basic_indices, integer_array_indices

from moe_numpy.autodiff import Tensor
from moe_numpy.ops import GetItem, TakeAlongAxis


def assert_scatters(x, index):
    """The gradient of x[index] is what np.add.at, the plain definition, computes."""
    op = GetItem()
    y = np.asarray(op.forward(x, index=index))
    np.testing.assert_array_equal(y, x[index])
    g = np.random.default_rng(1).standard_normal(y.shape)
    expected = np.zeros(x.shape)
    np.add.at(expected, index, g)
    dx = op.backward(g)
    assert dx.shape == x.shape
    np.testing.assert_allclose(dx, expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(data=st.data(), shape=array_shapes(max_dims=3, max_side=4))
def test_basic_indexing(data, shape):
    index = data.draw(basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    assert_scatters(np.random.default_rng(0).standard_normal(shape), index)


@settings(deadline=None)
@given(data=st.data(), shape=array_shapes(max_dims=3, max_side=4))
def test_integer_arrays(data, shape):
    assert_scatters(np.random.default_rng(0).standard_normal(shape), data.draw(integer_array_indices(shape)))


@settings(deadline=None)
@given(rows=arrays(np.int64, array_shapes(max_dims=2, max_side=5), elements=st.integers(-3, 2)))
def test_one_array_of_rows(rows):
    assert_scatters(np.random.default_rng(0).standard_normal((3, 2, 2)), rows)


@pytest.mark.parametrize(
    "index",
    [
        np.array([], np.int64),
        np.array([1, 0], np.uint8),
        np.array(2),
        np.int64(1),
        [0, 0, 1],
        (np.array([0, 0]), slice(None)),
        (slice(None), np.array([True, False])),
        np.array([True, False, True]),
        np.array([[True, False], [True, True], [False, False]]),
        None,
        ...,
        True,
    ],
)
def test_other_indices(index, rng):
    assert_scatters(rng.standard_normal((3, 2)), index)


def test_small_index_types_reach_their_rows_of_a_long_array(rng):
    assert_scatters(rng.standard_normal((300, 2)), np.array([255, 3], np.uint8))
    assert_scatters(rng.standard_normal((300, 2)), np.array([-1, -128], np.int8))


def test_rows_of_a_vector(rng):
    assert_scatters(rng.standard_normal(4), np.array([3, 3, -1, 0]))


def test_take_along_axis_sums_duplicates():
    x = Tensor(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), requires_grad=True)
    y = TakeAlongAxis.apply(x, np.array([[2, 2], [0, -1]]), axis=1)
    np.testing.assert_array_equal(y.data, [[3, 3], [4, 6]])
    y.backward(np.array([[1.0, 10.0], [100.0, 1000.0]]))
    np.testing.assert_array_equal(x.grad, [[0, 0, 11], [100, 0, 1000]])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_take_along_any_axis(axis, rng):
    x = rng.standard_normal((3, 3, 3)).astype(np.float32)
    indices = rng.integers(0, 3, (3, 3, 3))
    op = TakeAlongAxis()
    y = op.forward(x, indices, axis=axis)
    np.testing.assert_array_equal(y, np.take_along_axis(x, indices, axis))
    dx, no_gradient = op.backward(y)
    assert no_gradient is None
    assert dx.dtype == np.float32
    assert (dx * x).sum() == pytest.approx((y * y).sum(), rel=1e-5)


def test_take_along_axis_broadcasts_the_other_axes(rng):
    x = Tensor(rng.standard_normal((1, 4)), requires_grad=True)
    indices = np.array([[0, 1], [1, 1], [3, 0]])
    y = TakeAlongAxis.apply(x, indices, axis=1)
    np.testing.assert_array_equal(y.data, x.data[0][indices])
    y.backward(np.ones((3, 2)))
    np.testing.assert_array_equal(x.grad, [[2, 3, 0, 1]])
