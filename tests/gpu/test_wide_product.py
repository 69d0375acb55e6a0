"""Products of bfloat16 beside float32 keep the digits of float32."""

import numpy as np
import pytest

from moe_numpy import devices
from moe_numpy.autodiff.arrays import to_host
from moe_numpy.ops.matmul import wide_product

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("narrow_rows", [True, False])
@pytest.mark.parametrize("sizes", [(700, 64, 96), (8, 3000, 96), (1, 1, 1), (300, 7, 5), (6, 501, 33)])
def test_wide_products_have_the_digits_of_float32(sizes, narrow_rows):
    """Both ways of adding up the three parts of a float32. Tensor cores cut what they add off where float32 ends."""
    rng, (m, k, n) = np.random.default_rng(0), sizes
    a = rng.standard_normal((m, k)) * 10.0 ** rng.integers(-6, 6, (m, 1))
    a, b = a.astype(devices.float_type("bfloat16" if narrow_rows else "float32")), rng.standard_normal((k, n))
    b = b.astype(devices.float_type("bfloat16"))
    found = to_host(wide_product(devices.put(a, "cuda"), devices.put(b, "cuda")))
    assert found.dtype == np.float32
    exact, size = a.astype(np.float64) @ b.astype(np.float64), abs(a.astype(np.float64)) @ abs(b.astype(np.float64))
    assert (abs(found - exact) <= 4e-6 * size).all()


def test_infinity_and_nan_arrive():
    a = np.array([[1, np.inf], [np.nan, 1], [-np.inf, 2], [3, 4]], np.float32)
    b = np.array([[1], [2]]).astype(devices.float_type("bfloat16"))
    found = to_host(wide_product(devices.put(a, "cuda"), devices.put(b, "cuda")))
    np.testing.assert_array_equal(found[:, 0], [np.inf, np.nan, -np.inf, 11])
