import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.ops import LayerNorm, RMSNorm


def test_rms_norm_brings_the_root_mean_square_to_the_weight(rng):
    x = 100 * rng.standard_normal((2, 3, 64))
    y = RMSNorm.apply(x, np.full(64, 2.0)).data
    np.testing.assert_allclose(np.sqrt((y**2).mean(-1)), 2, rtol=1e-6)
    np.testing.assert_allclose(y / np.linalg.norm(y, axis=-1, keepdims=True) * np.linalg.norm(x, axis=-1)[..., None], x)


def test_layer_norm_brings_mean_and_variance_to_bias_and_weight(rng):
    x = 5 + 100 * rng.standard_normal((2, 3, 64))
    y = LayerNorm.apply(x, np.full(64, 2.0), np.full(64, 3.0)).data
    np.testing.assert_allclose(y.mean(-1), 3, rtol=1e-6)
    np.testing.assert_allclose(y.std(-1), 2, rtol=1e-6)


def test_known_values_with_a_large_eps():
    x = np.array([1.0, 3.0])
    np.testing.assert_allclose(RMSNorm.apply(x, np.ones(2), eps=4.0).data, x / 3)
    np.testing.assert_allclose(LayerNorm.apply(x, np.ones(2), np.zeros(2), eps=3.0).data, [-0.5, 0.5])


@pytest.mark.parametrize("op", [RMSNorm, LayerNorm])
def test_a_row_of_zeros_stays_finite_in_float32(op):
    x = Tensor(np.zeros((2, 4), np.float32), requires_grad=True)
    weights = [np.ones(4, np.float32)] * (1 if op is RMSNorm else 2)
    y = op.apply(x, *weights)
    y.backward(np.ones((2, 4), np.float32))
    assert y.dtype == x.grad.dtype == np.float32
    assert np.isfinite(y.data).all()
    assert np.isfinite(x.grad).all()


def test_strided_input(rng):
    x = rng.standard_normal((8, 3, 2)).T[:, :, ::2]
    weight = rng.standard_normal(4)
    y = RMSNorm.apply(x, weight).data
    np.testing.assert_allclose(y, RMSNorm.apply(np.ascontiguousarray(x), weight).data)
