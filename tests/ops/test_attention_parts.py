"""Sinks, windows, chunks, and rotations of a part of a head, by their definitions."""

import numpy as np
import pytest

from moe_numpy.gradcheck import gradcheck
from moe_numpy.ops import CausalAttention, RotaryEmbedding


def attend(q, k, v, sees, sinks=None):
    """One query at a time; ``sees(i, j)`` says whether the query at position i sees the key at position j."""
    batch, heads, length, width = q.shape
    o = np.zeros((*q.shape[:3], v.shape[3]))
    for b, h, s in np.ndindex(batch, heads, length):
        i = k.shape[2] - length + s
        seen = [j for j in range(i + 1) if sees(i, j)]
        e = np.exp(k[b, h // (heads // k.shape[1]), seen] @ q[b, h, s] / np.sqrt(width))
        total = e.sum() + (0 if sinks is None else np.exp(sinks[h]))
        o[b, h, s] = e @ v[b, h // (heads // k.shape[1]), seen] / total
    return o


LIMITS = {
    "window": ({"window": 3}, lambda i, j: j > i - 3),
    "window of one": ({"window": 1}, lambda i, j: j == i),
    "chunk": ({"chunk": 4}, lambda i, j: i // 4 == j // 4),
    "both": ({"chunk": 5, "window": 2}, lambda i, j: i // 5 == j // 5 and j > i - 2),
    "wider than the text": ({"chunk": 99, "window": 99}, lambda i, j: True),
}


@pytest.mark.parametrize("earlier", [0, 3])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("which", LIMITS)
def test_what_a_query_sees(which, with_sinks, earlier):
    limits, sees = LIMITS[which]
    rng = np.random.default_rng(0)
    q = rng.standard_normal((2, 4, 7, 6))
    k, v = rng.standard_normal((2, 2, 7 + earlier, 6)), rng.standard_normal((2, 2, 7 + earlier, 5))
    sinks = [rng.standard_normal(4)] if with_sinks else []
    expected = attend(q, k, v, sees, *sinks)
    np.testing.assert_allclose(CausalAttention.apply(q, k, v, *sinks, **limits).data, expected, rtol=1e-12)
    if which != "window of one":  # a single key: gradients of 0
        f = lambda *inputs: CausalAttention.apply(*inputs, **limits)  # noqa: E731
        gradcheck(f, [q, k, v, *sinks], samples=3).raise_if_failed()


@pytest.mark.parametrize("pairing", ["halves", "neighbours"])
def test_a_part_of_a_head_rotates(pairing):
    rng = np.random.default_rng(0)
    x, frequencies = rng.standard_normal((1, 2, 5, 10)), np.array([1.0, 0.3, 0.01])
    y = RotaryEmbedding.apply(x, offset=2, frequencies=frequencies, factor=1.5, pairing=pairing).data
    first, second = (slice(0, 3), slice(3, 6)) if pairing == "halves" else (slice(0, 6, 2), slice(1, 6, 2))
    z = (x[..., first] + 1j * x[..., second]) * 1.5 * np.exp(1j * np.outer(2 + np.arange(5), frequencies))
    np.testing.assert_allclose(y[..., first], z.real)
    np.testing.assert_allclose(y[..., second], z.imag)
    np.testing.assert_array_equal(y[..., 6:], x[..., 6:])
