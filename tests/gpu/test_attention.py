"""Attention without scores in memory against its definition in float64: tails, cached keys, grouped queries."""

import math

import ml_dtypes
import numpy as np
import pytest

from moe_numpy.ops.attention import causal_attention, causal_attention_gradient

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-2


def normal(rng, size, *shape):
    """Entries of about this size, in bfloat16."""
    return (size * rng.standard_normal(shape)).astype(ml_dtypes.bfloat16)


def far(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("width", [16, 32, 48, 64, 80, 96, 112, 128])
@pytest.mark.parametrize(
    ("batch", "heads", "groups", "length", "num_keys"),
    [
        (2, 3, 1, 128, 128), (1, 2, 4, 1, 300), (1, 1, 8, 33, 33), (2, 2, 2, 65, 200), (1, 2, 3, 127, 127),
        (1, 2, 2, 129, 129), (1, 3, 2, 200, 328), (2, 2, 1, 256, 256), (1, 1, 1, 1000, 1000), (3, 8, 2, 300, 511),
    ],
)  # fmt: skip
def test_output_and_gradients(batch, heads, groups, length, num_keys, width):
    import cupy

    rng, scale = np.random.default_rng(length + width), 1 / math.sqrt(width)
    q, grad = (normal(rng, 1, batch, heads, groups * length, width) for _ in range(2))
    k, v = (normal(rng, 1, batch, heads, num_keys, width) for _ in range(2))
    runs = []
    for _ in range(2):
        on_gpu = [cupy.asarray(x) for x in (q, k, v)]
        o, e, total = causal_attention(*on_gpu, length, scale)
        assert e.shape == (*q.shape[:3], 0)
        gradients = causal_attention_gradient(cupy.asarray(grad), *on_gpu, o, e, total, length, scale)
        runs.append([x.get() for x in (o, total, *gradients[:3])])
    for first, second in zip(*runs, strict=True):
        assert first.tobytes() == second.tobytes()

    wide = [x.astype(np.float64) for x in (q, k, v)]
    o, e, total = causal_attention.definition(*wide, length, scale)
    gradients = causal_attention_gradient.definition(grad.astype(float), *wide, o, e, total, length, scale)
    for name, found, expected in zip(
        ["o", "dq", "dk", "dv"], [runs[0][0], *runs[0][2:]], [o, *gradients[:3]], strict=True
    ):
        assert far(found, expected) < TOLERANCE, name

    visible = np.tile(np.tri(length, num_keys, num_keys - length, dtype=bool), (groups, 1))
    scores = np.where(visible, wide[0] @ wide[1].swapaxes(-1, -2) * scale, -np.inf)
    np.testing.assert_allclose(runs[0][1][..., 0], np.logaddexp.reduce(scores, axis=-1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("width", [64, 128])
def test_large_scores(width):
    """Up to tens of thousands: what is left is the largest."""
    import cupy

    rng = np.random.default_rng(0)
    q, k = (normal(rng, 100, 1, 2, 300, width) for _ in range(2))
    v, grad = (normal(rng, 1, 1, 2, 300, width) for _ in range(2))
    on_gpu = [cupy.asarray(x) for x in (q, k, v)]
    o, e, total = causal_attention(*on_gpu, 300, 0.1)
    assert float(total.max()) > 1e4
    assert far(o.get(), causal_attention.definition(*[x.astype(float) for x in (q, k, v)], 300, 0.1)[0]) < TOLERANCE
    for x in causal_attention_gradient(cupy.asarray(grad), *on_gpu, o, e, total, 300, 0.1)[:3]:
        assert np.isfinite(x.get().astype(float)).all()


def test_arrays_with_gaps_and_odd_addresses():
    import cupy

    rng = np.random.default_rng(0)
    memory = cupy.asarray(normal(rng, 1, 1 + 2 * 3 * 100 * 32))
    odd = memory[1:].reshape(2, 3, 100, 32)  # two bytes after the beginning
    gaps = cupy.asarray(normal(rng, 1, 2, 3, 100, 64))[..., ::2]
    turned = cupy.asarray(normal(rng, 1, 2, 100, 3, 32)).transpose(0, 2, 1, 3)
    dense = [cupy.ascontiguousarray(x).copy() for x in (odd, gaps, turned)]
    results = []
    for arrays in ((odd, gaps, turned), dense):
        o, e, total = causal_attention(*arrays, 100, 0.2)
        results.append([o, *causal_attention_gradient(arrays[2], *arrays, o, e, total, 100, 0.2)[:3]])
    for first, second in zip(*results, strict=True):
        assert first.get().tobytes() == second.get().tobytes()
