"""All experts in one launch against float64: ragged rows, experts without rows, one with all, rows of no expert."""

import ml_dtypes
import numpy as np
import pytest

from moe_numpy.moe.experts import grouped_product, grouped_product_input_gradient, grouped_product_weight_gradient

pytestmark = pytest.mark.gpu

TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-3}


def offsets_of(rng, rows, experts, kind):
    counts = rng.multinomial(rows, rng.dirichlet(np.ones(experts)))
    if kind == "one takes all":
        counts = np.eye(experts, dtype=int)[experts // 2] * rows
    if kind == "some are empty":
        counts[::2] = 0
        counts[1] += rows - counts.sum()
    if kind == "some rows are nobody's":
        counts[-1] = max(counts[-1] - 7, 0)
    return np.concatenate([[0], np.cumsum(counts)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["random", "one takes all", "some are empty", "some rows are nobody's"])
@pytest.mark.parametrize(
    ("rows", "experts", "d", "f"),
    [
        (300, 5, 64, 128), (1000, 7, 200, 328), (64, 3, 8, 16), (5000, 3, 520, 264), (129, 2, 256, 256),
        (700, 20, 136, 72), (2000, 4, 1024, 512), (40, 300, 72, 40), (33, 2, 7, 5), (1, 2, 16, 24),
    ],
)  # fmt: skip
def test_the_three_products(rows, experts, d, f, kind, dtype):
    import cupy

    rng = np.random.default_rng(rows + experts)
    float_type = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    offsets = offsets_of(rng, rows, experts, kind)
    end = offsets[-1]
    x, w, g = (rng.standard_normal(s).astype(float_type) for s in ((rows, d), (experts, f, d), (rows, f)))
    x[end:] = g[end:] = np.nan
    device = {name: cupy.asarray(a) for name, a in {"x": x, "w": w, "g": g, "offsets": offsets}.items()}
    x64, w64, g64 = (a.astype(np.float64) for a in (x[:end], w, g[:end]))
    for kernel, found_of, expected_of in (
        (grouped_product, ("x", "w"), (x64, w64)),
        (grouped_product_input_gradient, ("g", "w"), (g64, w64)),
        (grouped_product_weight_gradient, ("g", "x"), (g64, x64)),
    ):
        runs = [kernel(*(device[name] for name in found_of), device["offsets"]).get() for _ in range(2)]
        np.testing.assert_array_equal(*runs)
        found, expected = runs[0].astype(np.float64), kernel.definition(*expected_of, offsets)
        if found.shape != expected.shape:
            assert not found[end:].any()
            found = found[:end]
        assert np.linalg.norm(found - expected) <= TOLERANCE[dtype] * np.linalg.norm(expected)
