import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from moe_numpy.autodiff import Tensor
from moe_numpy.ops import BroadcastTo, Concatenate, Reshape, Transpose


@given(data=st.data(), shape=array_shapes(min_dims=0, max_dims=4, max_side=3))
def test_transpose_is_undone_by_its_backward(data, shape):
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    signs = data.draw(st.tuples(*[st.booleans() for _ in shape]))
    axes = tuple(a - len(shape) if negative else a for a, negative in zip(axes, signs, strict=True))
    x = np.random.default_rng(0).standard_normal(shape)
    op = Transpose()
    y = op.forward(x, axes=axes)
    np.testing.assert_array_equal(y, x.transpose(axes))
    np.testing.assert_array_equal(op.backward(y), x)


def test_transpose_without_axes_reverses_them(rng):
    x = rng.standard_normal((2, 3, 4))
    np.testing.assert_array_equal(Transpose.apply(x).data, x.T)


def test_reshape_counts_in_c_order_whatever_the_strides(rng):
    x = Tensor(rng.standard_normal((4, 6)).T[::2], requires_grad=True)
    y = Reshape.apply(x, shape=(2, -1))
    np.testing.assert_array_equal(y.data, x.data.reshape(2, 6))
    g = rng.standard_normal((2, 6))
    y.backward(g)
    np.testing.assert_array_equal(x.grad, g.reshape(3, 4))


def test_reshape_refuses_another_number_of_entries():
    with pytest.raises(ValueError, match="cannot reshape"):
        Reshape.apply(Tensor(np.zeros(6)), shape=(4, 2))


def test_broadcast_to_sums_over_the_copies():
    x = Tensor(np.array([[1.0], [2.0]]), requires_grad=True)
    y = BroadcastTo.apply(x, shape=(3, 2, 4))
    assert y.shape == (3, 2, 4)
    y.backward(np.ones((3, 2, 4)))
    np.testing.assert_array_equal(x.grad, [[12], [12]])


@given(
    lengths=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    axis=st.integers(-2, 1),
)
def test_concatenate_gives_each_input_its_part(lengths, axis):
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((n, 2) if axis % 2 == 0 else (2, n)) for n in lengths]
    op = Concatenate()
    y = op.forward(*inputs, axis=axis)
    np.testing.assert_array_equal(y, np.concatenate(inputs, axis=axis))
    for part, x in zip(op.backward(y), inputs, strict=True):
        np.testing.assert_array_equal(part, x)
