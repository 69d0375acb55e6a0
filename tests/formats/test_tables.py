import numpy as np
import pytest

from moe_numpy.formats.tables import look_up, magnitudes, nearest


def test_magnitudes_by_hand():
    assert magnitudes(2, 1, 1).tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert magnitudes(1, 2, 0).tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]


def test_a_tie_goes_to_the_even_index():
    table = magnitudes(2, 1, 1)
    ties = (table[:-1] + table[1:]) / 2
    for dtype in (np.float32, np.float64):
        at = ties.astype(dtype)
        assert nearest(table, at).tolist() == [0, 2, 2, 4, 4, 6, 6]
        assert nearest(table, np.nextafter(at, dtype(9))).tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert nearest(table, np.nextafter(at, dtype(0))).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_many_codes_are_looked_up_as_few_are():
    codes = np.random.default_rng(0).integers(0, 256, (3, 1 << 17, 2), dtype=np.uint8).transpose(2, 0, 1)
    table = np.arange(512.0).reshape(256, 2)
    assert np.array_equal(look_up(table, codes, np.dtype("f4")), table[codes].astype("f4"))
    assert look_up(table, codes[:, :0], np.dtype("f4")).shape == (2, 0, 1 << 17, 2)


@pytest.mark.parametrize("dtype", ["f2", "i4", ">f8"])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match="float32 or float64"):
        look_up(np.zeros(256), np.zeros(3, np.uint8), np.dtype(dtype))
