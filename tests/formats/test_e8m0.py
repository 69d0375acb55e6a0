import ml_dtypes
import numpy as np

from moe_numpy.formats import e8m0

ALL = np.arange(256, dtype=np.uint8)


def test_all_256_values():
    for dtype in (np.float32, np.float64):
        values = e8m0.decode(ALL, dtype)
        assert values.dtype == dtype
        assert values[:255].tolist() == [2.0 ** (byte - 127) for byte in range(255)]
        assert np.isnan(values[255])
    assert np.array_equal(e8m0.decode(ALL), ALL.view(ml_dtypes.float8_e8m0fnu).astype("f4"), equal_nan=True)


def test_exponents_come_back_and_others_become_the_nearest():
    assert np.array_equal(e8m0.encode(np.arange(-127, 128)), ALL[:255])
    assert e8m0.encode(np.array([-1000, 1000])).tolist() == [0, 254]
