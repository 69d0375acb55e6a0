import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from moe_numpy.autodiff import Tensor
from moe_numpy.gradcheck import gradcheck
from moe_numpy.ops import Affine, MatMul

pytestmark = pytest.mark.no_cover


@settings(max_examples=40, deadline=None)
@given(shapes=mutually_broadcastable_shapes(signature="(m?,n),(n,p?)->(m?,p?)", max_dims=2, max_side=3))
def test_the_shapes_of_numpy_matmul(shapes):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape) for shape in shapes.input_shapes)
    y = MatMul.apply(a, b)
    assert y.shape == np.matmul(a, b).shape
    np.testing.assert_allclose(y.data, np.matmul(a, b), rtol=1e-12, atol=1e-12)
    gradcheck(MatMul.apply, [a, b], samples=4).raise_if_failed()


def test_matmul_of_strided_views(rng):
    a = rng.standard_normal((6, 5, 4)).transpose(2, 0, 1)[:, ::2]
    b = rng.standard_normal((7, 5)).T[:, ::-1]
    ta, tb = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
    g = rng.standard_normal((4, 3, 7))
    MatMul.apply(ta, tb).backward(g)
    np.testing.assert_allclose(ta.grad, np.einsum("bip,np->bin", g, b))
    np.testing.assert_allclose(tb.grad, np.einsum("bin,bip->np", a, g))


@pytest.mark.parametrize("side", [0, 1])
def test_matmul_spends_nothing_on_a_constant(side, rng):
    inputs = [Tensor(rng.standard_normal((2, 2)), requires_grad=i == side) for i in range(2)]
    y = MatMul.apply(*inputs)
    gradients = y.function.backward(np.ones((2, 2)))
    assert gradients[side] is not None
    assert gradients[1 - side] is None


def test_matmul_refuses_inner_lengths_that_differ(rng):
    with pytest.raises(ValueError, match="matmul"):
        MatMul.apply(rng.standard_normal((2, 3)), rng.standard_normal((2, 3)))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 0)])
def test_affine_for_any_leading_axes(batch, rng):
    x, weight, bias = rng.standard_normal((*batch, 4)), rng.standard_normal((5, 4)), rng.standard_normal(5)
    y = Affine.apply(x, weight, bias)
    assert y.shape == (*batch, 5)
    np.testing.assert_allclose(y.data, x @ weight.T + bias)
    np.testing.assert_allclose(Affine.apply(x, weight, None).data, x @ weight.T)


def test_affine_of_a_transposed_view(rng):
    x = Tensor(rng.standard_normal((4, 3, 2)).T, requires_grad=True)
    weight = Tensor(rng.standard_normal((5, 4)), requires_grad=True)
    g = rng.standard_normal((2, 3, 5))
    Affine.apply(x, weight, None).backward(g)
    np.testing.assert_allclose(x.grad, g @ weight.data)
    np.testing.assert_allclose(weight.grad, np.einsum("abo,abi->oi", g, x.data))


def test_affine_with_frozen_weights(rng):
    x = Tensor(rng.standard_normal((2, 4)), requires_grad=True)
    y = Affine.apply(x, rng.standard_normal((5, 4)), rng.standard_normal(5))
    assert [g is None for g in y.function.backward(np.ones((2, 5)))] == [False, True, True]
    frozen_input = Affine.apply(x.data, Tensor(rng.standard_normal((5, 4)), requires_grad=True), None)
    assert [g is None for g in frozen_input.function.backward(np.ones((2, 5)))] == [True, False, True]
