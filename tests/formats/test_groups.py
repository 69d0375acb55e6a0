"""int8 and int4 against their formulas in slow loops, and at the edges of the range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moe_numpy.formats import bfloat16, int4, int8, mxfp4, quantise

LARGEST = float(np.finfo(np.float32).max)
FORMATS = {"int8": (int8, -127, 127), "int4": (int4, -8, 7)}
ANY = st.floats(-LARGEST, LARGEST, width=32)


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None)
@given(arrays(np.float32, (3, 64), elements=ANY))
def test_quantised_by_the_formula(name, weights):
    module, lowest, highest = FORMATS[name]
    codes, scales = module.quantise(weights)
    back = module.dequantise(codes, scales)
    assert np.isfinite(back).all()
    assert np.array_equal(back, module.dequantise(codes, scales, np.float64))
    values = bfloat16.decode(scales).astype(float)
    for row in range(3):
        for n in range(2):
            group, scale = weights[row, 32 * n : 32 * n + 32].astype(float), values[row, n]
            largest = max(group.tolist(), key=abs)
            exact = abs(largest) / 127 if name == "int8" else largest / -8
            assert abs(scale - exact) <= max(abs(exact) / 128, 2.0**-134)  # a bfloat16 from it, towards zero at the end
            expected = np.zeros(32)
            if scale:
                expected = np.clip(np.rint((group / scale).astype(np.float32)), lowest, highest) * scale
            assert np.abs(back[row, 32 * n : 32 * n + 32] - expected).max() <= abs(scale) * 1.001  # float32 may tie
            inside = np.abs(group) <= abs(scale) * highest
            errors = np.abs(back[row, 32 * n : 32 * n + 32] - group)
            assert (errors[inside] <= abs(scale) * 0.5001).all()


def test_values_by_hand():
    codes = np.arange(-16, 16, dtype=np.int8).reshape(1, 32)
    half = bfloat16.encode(np.array([[0.5]], "f4"))
    assert np.array_equal(int8.dequantise(codes, half)[0], np.arange(-16, 16) / 2)
    nibbles = np.array([[[16 * high + high ^ 8 for high in range(16)]]], np.uint8)
    got = int4.dequantise(nibbles, half)[0]
    assert np.array_equal(got[16:], (np.arange(16) - 8) / 2)  # high bits: columns 16 to 31
    assert np.array_equal(got[:16], ((np.arange(16) ^ 8) - 8) / 2)
    weights = np.zeros((1, 32), "f4")
    weights[0, :3] = 127, -1, 63.4
    assert int8.quantise(weights)[0][0, :3].tolist() == [127, -1, 63]
    weights[0, :3] = 8, -7, 7  # the largest becomes -8, so that 7 is the most on the other side
    codes, scales = int4.quantise(weights)
    assert bfloat16.decode(scales) == -1
    assert int4.dequantise(codes, scales)[0, :4].tolist() == [8, -7, 7, 0]


@pytest.mark.parametrize("name", FORMATS)
def test_groups_do_not_touch_each_other(name):
    module = FORMATS[name][0]
    weights = np.random.default_rng(0).standard_normal((4, 8, 96)).astype(np.float32)
    whole = module.dequantise(*module.quantise(weights))
    changed = weights.copy()
    changed[2, 3, 32:64] *= 1000
    different = module.dequantise(*module.quantise(changed)) != whole
    assert different[2, 3, 32:64].any()
    assert different.sum() == different[2, 3, 32:64].sum()
    assert np.array_equal(module.dequantise(*module.quantise(weights[1, 2:3])), whole[1, 2:3])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("factor", [1e-45, 1e-40, 1e-30, 1e-9, 1.0, 1e30, LARGEST])
def test_the_edges_of_the_range(name, factor):
    """A scale in float16 could be neither so small nor so large."""
    weights = np.linspace(-1, 1, 32).astype(np.float32).reshape(1, 32) * np.float32(factor)
    back = quantise(weights, name).dequantise()
    assert np.isfinite(back).all()
    step = factor / (127 if name == "int8" else 8)
    assert np.abs(back - weights).max() <= max(1.04 * step, 127 * 2.0**-134)  # 1 on both sides, in int4
    x = np.ones((1, 32), np.float32)
    assert np.isfinite(quantise(weights[:, :2].repeat(16, 1), name).product(x / 32)).all()


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_of_both_signs(name):
    weights = np.zeros((2, 64), np.float32)
    weights[1] = -0.0
    matrix = quantise(weights, name)
    assert not matrix.dequantise().any()
    assert not matrix.product(np.ones((3, 64), np.float32)).any()
    with np.errstate(invalid="ignore"):
        assert np.isnan(matrix.product(np.full((1, 64), np.inf, np.float32))).all()


@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (2, 0, 32)])
@pytest.mark.parametrize("name", FORMATS)
def test_nothing(name, shape):
    module = FORMATS[name][0]
    codes, scales = module.quantise(np.zeros(shape, np.float32))
    assert module.dequantise(codes, scales).shape == shape
    if len(shape) == 2:
        y = quantise(np.zeros(shape, np.float32), name).product(np.ones((2, shape[1]), np.float32))
        assert y.shape == (2, shape[0])
        assert not y.any()


def test_bfloat16_scales_cost_nothing():
    """The errors that the docstrings state, of normally distributed weights."""
    weights = np.random.default_rng(0).standard_normal((2000, 32)).astype(np.float32)

    def error(back):
        return np.sqrt(np.mean((back - weights) ** 2))

    assert error(quantise(weights, "int8").dequantise()) == pytest.approx(0.0054, abs=5e-5)
    assert error(quantise(weights, "int4").dequantise()) == pytest.approx(0.0859, abs=5e-4)
    sevenths = np.abs(weights).max(1, keepdims=True) / 7
    assert error(np.rint(weights / sevenths) * sevenths) > 1.12 * error(quantise(weights, "int4").dequantise())
    assert error(mxfp4.dequantise(*mxfp4.quantise(weights))) > 1.3 * error(quantise(weights, "int4").dequantise())
