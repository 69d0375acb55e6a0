import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.formats import bfloat16

ALL = np.arange(1 << 16, dtype=np.uint16)


def test_all_65536_values_are_those_of_ml_dtypes():
    assert np.array_equal(bfloat16.decode(ALL).view(np.uint32), ALL.view(ml_dtypes.bfloat16).astype("f4").view("u4"))


def test_every_value_comes_back():
    values = bfloat16.decode(ALL)
    back = bfloat16.encode(values)
    nan = np.isnan(values)
    assert np.array_equal(back[~nan], ALL[~nan])
    assert np.isnan(bfloat16.decode(back[nan])).all()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_rounding_is_that_of_ml_dtypes(bits):
    check(np.array(bits, np.uint32).view(np.float32))


def test_rounding_at_and_beside_all_ties():
    bits = ALL.astype(np.uint32)[:, None] << 16 | np.array([0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    check(bits.view(np.float32))


def check(values):
    got, nan = bfloat16.encode(values), np.isnan(values)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    assert np.array_equal(got[~nan], expected[~nan])
    assert np.isnan(bfloat16.decode(got[nan])).all()


def test_any_shape_and_order():
    values = np.arange(24, dtype="f4").reshape(2, 3, 4)
    for view in (values.T, values[:, ::2], values[:0], np.float32(3).reshape(())):
        assert np.array_equal(bfloat16.decode(bfloat16.encode(view)), view)


def test_other_types_are_refused():
    with pytest.raises((ValueError, TypeError), match=r"uint16|bits"):
        bfloat16.decode(np.zeros(2, np.int16))
    with pytest.raises(ValueError, match="float32, got float64"):
        bfloat16.encode(np.zeros(2))
