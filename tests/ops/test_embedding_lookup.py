import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from moe_numpy.ops import EmbeddingLookup


@settings(deadline=None)
@given(ids=arrays(np.int64, array_shapes(min_dims=0, max_dims=3, min_side=0), elements=st.integers(0, 4)))
def test_gradients_of_equal_ids_add_up(ids):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 3))
    op = EmbeddingLookup()
    np.testing.assert_array_equal(op.forward(weight, ids), weight[ids])
    g = rng.standard_normal((*ids.shape, 3))
    expected = np.zeros_like(weight)
    np.add.at(expected, ids, g)
    dweight, no_gradient = op.backward(g)
    np.testing.assert_allclose(dweight, expected, rtol=1e-12, atol=1e-12)
    assert no_gradient is None


@pytest.mark.parametrize("id_type", [np.uint8, np.int32, np.int64])
def test_any_integer_type_and_float32(id_type):
    op = EmbeddingLookup()
    y = op.forward(np.eye(256, 2, dtype=np.float32), np.array([255, 0, 255], id_type))
    dweight, _ = op.backward(y + 1)
    assert dweight.dtype == np.float32
    np.testing.assert_array_equal(dweight[[0, 1, 255]], [[2, 1], [0, 0], [2, 2]])


@pytest.mark.parametrize("ids", [[0, 5], [-1, 2]])
def test_ids_out_of_range(ids):
    with pytest.raises(ValueError, match=f"ids must be between 0 and 4, got values from {ids[0]} to {ids[1]}"):
        EmbeddingLookup.apply(np.ones((5, 2)), np.array(ids))


def test_ids_that_are_not_integers(unchecked):
    with pytest.raises(TypeError, match="ids must be integers, got dtype float64"):
        EmbeddingLookup.apply(np.ones((5, 2)), np.array([1.0]))
