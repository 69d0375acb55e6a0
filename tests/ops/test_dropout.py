import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.ops import Dropout


def test_drops_the_given_part_and_keeps_the_mean():
    x = Tensor(np.ones((100, 200), np.float32), requires_grad=True)
    y = Dropout.apply(x, rate=0.25, rng=np.random.default_rng(0))
    assert y.dtype == np.float32
    assert np.unique(y.data).tolist() == [0, np.float32(1) / np.float32(0.75)]
    assert (y.data == 0).mean() == pytest.approx(0.25, abs=0.01)
    y.backward(np.full(y.shape, 3, np.float32))
    np.testing.assert_allclose(x.grad, 3 * y.data)


def test_the_seed_decides_the_mask():
    x = np.ones((5, 5))
    first, same, other = (Dropout.apply(x, rate=0.5, rng=np.random.default_rng(s)).data for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_rate_zero_changes_nothing(rng):
    x = rng.standard_normal((3, 4))
    np.testing.assert_array_equal(Dropout.apply(x, rate=0.0, rng=rng).data, x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rate_out_of_range(rate, rng):
    with pytest.raises(ValueError, match=f"rate must be at least 0 and below 1, got {rate}"):
        Dropout.apply(Tensor([1.0]), rate=rate, rng=rng)
