import numpy as np
import pytest

from moe_numpy.nn import Embedding


def test_looks_up_and_learns():
    layer = Embedding(5, 3, rng=np.random.default_rng(0))
    y = layer(np.array([[1, 1], [4, 0]]))
    np.testing.assert_array_equal(y.data[0, 1], layer.weight.data[1])
    y.backward(np.ones((2, 2, 3), np.float32))
    np.testing.assert_array_equal(layer.weight.grad[:, 0], [1, 2, 0, 0, 1])


def test_initial_spread():
    rng = np.random.default_rng(0)
    assert Embedding(300, 400, rng=rng).weight.data.std() == pytest.approx(0.02, rel=0.02)
    assert Embedding(300, 400, std=1.0, rng=rng).weight.data.std() == pytest.approx(1, rel=0.02)
