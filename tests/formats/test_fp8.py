import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moe_numpy.formats import e8m0, fp8

ALL = np.arange(256, dtype=np.uint8)
E4M3 = ml_dtypes.float8_e4m3fn


def test_all_256_values_are_those_of_the_formula_and_of_ml_dtypes():
    for dtype in (np.float32, np.float64):
        values = fp8.decode(ALL, dtype)
        assert values.dtype == dtype
        assert np.array_equal(values, ALL.view(E4M3).astype(dtype), equal_nan=True)
        assert np.array_equal(np.signbit(values), ALL >= 128)
        for byte in range(256):
            sign, exponent, mantissa = -1.0 if byte >> 7 else 1.0, byte >> 3 & 15, byte & 7
            expected = (1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa / 8 * 2.0**-6
            assert np.isnan(values[byte]) if byte & 0x7F == 0x7F else values[byte] == sign * expected
    assert np.flatnonzero(np.isnan(fp8.decode(ALL))).tolist() == [0x7F, 0xFF]
    assert np.nanmax(fp8.decode(ALL)) == fp8.LARGEST
    assert fp8.decode(ALL)[1] == 2.0**-9


def test_every_value_comes_back():
    assert np.array_equal(fp8.encode(fp8.decode(ALL)), ALL)


@given(arrays(np.float32, 20, elements=st.floats(-600, 600, width=32) | st.floats(width=32)))
def test_rounding_is_that_of_ml_dtypes(values):
    check(values)


def test_rounding_at_and_beside_all_ties():
    values = np.sort(fp8.decode(ALL[:127]))
    ties = np.append((values[:-1] + values[1:]) / 2, np.float32(464))
    for beside in (ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(999))):
        check(beside)
        check(-beside)


def check(values):
    assert np.array_equal(fp8.decode(fp8.encode(values)), values.astype(E4M3).astype("f4"), equal_nan=True)


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(st.data())
def test_each_weight_has_the_scale_of_its_block(data):
    batch, (out, width), block = data.draw(st.sampled_from([(), (2,), (2, 3)])), data.draw(shapes), data.draw(shapes)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    rows, columns = -(-out // block[0]), -(-width // block[1])
    codes = rng.integers(0, 256, (*batch, out, width), dtype=np.uint8)
    exponents = rng.integers(1, 255, (*batch, rows, columns), dtype=np.uint8)
    linear = rng.normal(size=(*batch, rows, columns)).astype("f4")
    i, j = np.arange(out)[:, None] // block[0], np.arange(width) // block[1]
    for scales, factors in ((linear, linear), (exponents, e8m0.decode(exponents))):
        got = fp8.dequantise(codes, scales, block)
        with np.errstate(over="ignore"):
            assert np.array_equal(got, fp8.decode(codes) * factors[..., i, j], equal_nan=True)
        assert got.dtype == np.float32
        exact = fp8.dequantise(codes, scales, block, np.float64)
        assert np.array_equal(exact, fp8.decode(codes, np.float64) * factors[..., i, j].astype("f8"), equal_nan=True)


def test_bytes_as_scales_are_exponents_not_numbers():
    codes = np.full((1, 2), 0x38, np.uint8)  # 1
    assert fp8.dequantise(codes, np.array([[129]], np.uint8), (1, 2)).tolist() == [[4, 4]]


@given(st.data())
def test_quantised_weights_are_near_and_their_values_stay(data):
    (out, width), block = data.draw(shapes), data.draw(shapes)
    weights = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(out, width)).astype("f4")
    weights *= np.float32(10) ** data.draw(st.integers(-30, 30))
    codes, scales = fp8.quantise(weights, block)
    back = fp8.dequantise(codes, scales, block)
    i, j = np.arange(out)[:, None] // block[0], np.arange(width) // block[1]
    step = scales.astype("f8")[i, j] * 2.0**-10  # half of the least value
    assert (np.abs(back - weights.astype("f8")) <= np.maximum(np.abs(weights) / 15.9, step * 1.001)).all()
    assert np.abs(fp8.decode(codes)).max() == 448


def test_blocks_of_zeros_and_of_the_least_numbers():
    weights = np.array([[0, 0, 1e-45, -1e-45, 3e38]], np.float32)
    codes, scales = fp8.quantise(weights, (1, 2))
    assert scales[0, 0] == 1
    assert np.allclose(fp8.dequantise(codes, scales, (1, 2)), weights)
    assert fp8.quantise(np.zeros((0, 3), "f4"), (2, 2))[1].shape == (0, 2)
    assert fp8.dequantise(np.zeros((2, 0), "u1"), np.zeros((1, 0), "f4"), (2, 2)).shape == (2, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        fp8.quantise(np.array([[1, bad]]), (1, 1))


@pytest.mark.parametrize(
    ("shape", "scales", "block", "message"),
    [
        ((4, 4), np.ones((2, 1), "f4"), (2, 2), r"need scales \(2, 2\), got \(2, 1\)"),
        ((4, 5), np.ones((2, 2), "f4"), (2, 2), r"need scales \(2, 3\)"),
        ((3, 4, 4), np.ones((2, 2, 2), "f4"), (2, 2), r"need scales \(3, 2, 2\)|batch"),
        ((4, 4), np.ones((2, 2), "i4"), (2, 2), "floats, or uint8"),
        ((4, 4), np.ones((2, 2), "f4"), (0, 2), "at least 1 x 1"),
    ],
)
def test_scales_that_do_not_fit_are_refused(shape, scales, block, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fp8.dequantise(np.zeros(shape, np.uint8), scales, block)


def test_memory_is_little_more_than_the_result():
    codes, scales = np.zeros((2048, 2048), np.uint8), np.ones((16, 16), "f4")
    tracemalloc.start()
    fp8.dequantise(codes, scales, (128, 128))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * codes.size * 4
