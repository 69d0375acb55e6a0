import numpy as np
import pytest

from moe_numpy import ops
from moe_numpy.autodiff import Tensor
from moe_numpy.nn import LayerNorm, RMSNorm

X = Tensor(np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32))


def test_rms_norm_passes_its_weight_and_eps():
    layer = RMSNorm(4, eps=0.5)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    np.testing.assert_array_equal(layer(X).data, ops.RMSNorm.apply(X, np.ones(4, np.float32), eps=0.5).data)
    layer.weight.data[:] = 2
    np.testing.assert_array_equal(layer(X).data, ops.RMSNorm.apply(X, np.full(4, 2, np.float32), eps=0.5).data)


def test_layer_norm_passes_its_weight_bias_and_eps():
    layer = LayerNorm(4, eps=0.5)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    layer.weight.data[:], layer.bias.data[:] = 2, 3
    expected = ops.LayerNorm.apply(X, np.full(4, 2, np.float32), np.full(4, 3, np.float32), eps=0.5)
    np.testing.assert_array_equal(layer(X).data, expected.data)


@pytest.mark.parametrize("module", [RMSNorm, LayerNorm])
def test_starts_as_plain_normalisation_in_the_given_type(module):
    layer = module(4)
    y = layer(X)
    assert y.dtype == np.float32
    np.testing.assert_allclose((y.data**2).mean(-1), 1, rtol=1e-3)
    assert next(module(4, dtype=np.float64).parameters()).dtype == np.float64
