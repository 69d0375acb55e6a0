import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moe_numpy.formats import mxfp4

VALUES = [0.0, 0.5, 1, 1.5, 2, 3, 4, 6]
VALUES += [-value for value in VALUES]


def test_all_bytes_with_all_scales():
    blocks = np.arange(256, dtype=np.uint8).reshape(16, 1, 16)
    for scale in range(256):
        scales = np.full((16, 1), scale, np.uint8)
        expected = np.empty((16, 32))
        for byte in range(256):
            row, column = divmod(byte, 16)
            expected[row, 2 * column] = VALUES[byte & 15]
            expected[row, 2 * column + 1] = VALUES[byte >> 4]
        expected *= 2.0 ** (scale - 127) if scale < 255 else np.nan
        got = mxfp4.dequantise(blocks, scales, np.float64)
        assert np.array_equal(got, expected, equal_nan=True)
        assert np.array_equal(np.signbit(got), np.signbit(expected))
        with np.errstate(over="ignore"):
            assert np.array_equal(mxfp4.dequantise(blocks, scales), expected.astype("f4"), equal_nan=True)


def test_elements_are_those_of_ml_dtypes():
    codes = np.arange(16, dtype=np.uint8)
    assert np.array_equal(VALUES, codes.view(ml_dtypes.float4_e2m1fn).astype("f4"))


@given(arrays(np.float32, (3, 64), elements=st.floats(-(2**100), 2**100, width=32)))
def test_quantised_by_the_steps_of_the_specification(weights):
    blocks, scales = mxfp4.quantise(weights)
    assert (blocks.shape, scales.shape) == ((3, 2, 16), (3, 2))
    back = mxfp4.dequantise(blocks, scales, np.float64)
    for row in range(3):
        for n in range(2):
            block = weights[row, 32 * n : 32 * n + 32].astype("f8")
            if block.any():
                exponent = max(int(np.floor(np.log2(np.abs(block).max()))) - 2, -127)
                assert scales[row, n] == exponent + 127
                for weight, got in zip(block / 2.0**exponent, back[row, 32 * n :] / 2.0**exponent, strict=False):
                    distances = [abs(weight - value) for value in VALUES]
                    nearest = [i for i in range(16) if distances[i] == min(distances)]
                    assert got in [VALUES[i] for i in nearest if i % 2 == 0 or len(nearest) == 1]
            else:
                assert not back[row, 32 * n : 32 * n + 32].any()


@given(arrays(np.uint8, (2, 2, 16)), arrays(np.uint8, (2, 2), elements=st.integers(0, 250)))
def test_values_of_the_format_stay(blocks, scales):
    values = mxfp4.dequantise(blocks, scales)
    assert np.array_equal(mxfp4.dequantise(*mxfp4.quantise(values)), values)


def test_stacks_of_matrices_and_empty_ones():
    rng = np.random.default_rng(0)
    blocks, scales = rng.integers(0, 256, (2, 3, 5, 4, 16), np.uint8), rng.integers(90, 160, (2, 3, 5, 4), np.uint8)
    stacked = mxfp4.dequantise(blocks, scales)
    assert stacked.shape == (2, 3, 5, 128)
    assert np.array_equal(stacked[1, 2], mxfp4.dequantise(blocks[1, 2], scales[1, 2]))
    for shape in [(0, 5, 4), (2, 0, 4), (2, 5, 0)]:
        empty = mxfp4.dequantise(np.zeros((*shape, 16), "u1"), np.zeros(shape, "u1"))
        assert empty.shape == (*shape[:2], shape[2] * 32)
    assert mxfp4.quantise(np.zeros((0, 64), "f4"))[0].shape == (0, 2, 16)


@pytest.mark.parametrize(
    ("blocks", "scales"), [((2, 3, 8), (2, 3)), ((2, 3, 16), (2, 4)), ((2, 3, 16), (3, 2)), ((3, 16), (3,))]
)
def test_shapes_that_do_not_fit_are_refused(blocks, scales):
    with pytest.raises((ValueError, TypeError), match=r"blocks must be|out"):
        mxfp4.dequantise(np.zeros(blocks, np.uint8), np.zeros(scales, np.uint8))


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        mxfp4.quantise(np.zeros((2, 33), "f4"))
    with pytest.raises(ValueError, match="finite"):
        mxfp4.quantise(np.full((2, 32), np.nan, "f4"))


def test_memory_is_little_more_than_the_result():
    blocks, scales = np.zeros((1024, 128, 16), np.uint8), np.zeros((1024, 128), np.uint8)
    tracemalloc.start()
    mxfp4.dequantise(blocks, scales)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * blocks.size * 2 * 4
