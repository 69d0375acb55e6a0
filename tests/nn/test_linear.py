import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.nn import Linear


@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients(bias):
    rng = np.random.default_rng(0)
    layer = Linear(4, 3, bias=bias, rng=rng, dtype=np.float64)
    if layer.bias is not None:
        layer.bias.data[:] = rng.standard_normal(3)
    x = rng.standard_normal((2, 5, 4))
    y = layer(Tensor(x))
    np.testing.assert_allclose(y.data, x @ layer.weight.data.T + (layer.bias.data if bias else 0))
    g = rng.standard_normal(y.shape)
    y.backward(g)
    np.testing.assert_allclose(layer.weight.grad, np.einsum("bso,bsi->oi", g, x))
    if bias:
        np.testing.assert_allclose(layer.bias.grad, g.sum((0, 1)))


def test_parameters():
    layer = Linear(4, 3, bias=True, rng=np.random.default_rng(0))
    assert {name: p.shape for name, p in layer.named_parameters()} == {"weight": (3, 4), "bias": (3,)}
    assert all(p.dtype == np.float32 for p in layer.parameters())
    assert not layer.bias.data.any()
    assert [name for name, _ in Linear(4, 3, rng=np.random.default_rng(0)).named_parameters()] == ["weight"]


def test_initial_spread():
    rng = np.random.default_rng(0)
    assert Linear(400, 300, rng=rng).weight.data.std() == pytest.approx(1 / 20, rel=0.02)
    assert Linear(400, 300, std=3.0, rng=rng).weight.data.std() == pytest.approx(3, rel=0.02)


def test_float32_and_float64_from_one_seed_agree():
    single, double = (Linear(4, 3, rng=np.random.default_rng(0), dtype=t).weight.data for t in ("f4", "f8"))
    np.testing.assert_array_equal(single, double.astype(np.float32))
