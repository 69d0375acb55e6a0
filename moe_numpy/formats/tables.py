"""Floats of a few bits as tables: all values of a format, looking them up, and rounding to the nearest."""

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

from ..typing import Array, Float, UInt8

_CHUNK = 1 << 18  # entries at a time: indices of 8 bytes each would otherwise outgrow the result


def magnitudes(exponent_bits: int, mantissa_bits: int, bias: int) -> Float[Array, " n"]:
    """All values of such a float without its sign, by their bits, which ascend as the values do.

    With exponent e and mantissa m of M bits:

        value = (1 + m / 2^M) 2^(e - bias)      e > 0
                (m / 2^M) 2^(1 - bias)          e = 0

    Special values are not known here. Source: IEEE 754-2019, section 3.4.
    """
    exponent, mantissa = np.divmod(np.arange(1 << (exponent_bits + mantissa_bits)), 1 << mantissa_bits)
    fraction = mantissa / (1 << mantissa_bits)
    return np.where(exponent > 0, np.ldexp(1 + fraction, exponent - bias), np.ldexp(fraction, 1 - bias))


def look_up(table: Float[Array, "n ..."], codes: UInt8[Array, "..."], dtype: np.dtype) -> Float[Array, "..."]:
    """``table[codes]`` as float32 or float64.

    Raises:
        ValueError: ``codes`` are not bytes, or the type is another one.
    """
    if codes.dtype != np.uint8:
        raise ValueError(f"codes must be uint8, got {codes.dtype}")
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    table = table.astype(dtype)
    flat = codes.reshape(-1)
    if not is_numpy_array(codes):
        return array_namespace(codes).asarray(table)[flat.astype(np.int64)].reshape(codes.shape + table.shape[1:])
    values = np.empty((flat.size, *table.shape[1:]), dtype)
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        np.take(table, flat[part], axis=0, out=values[part], mode="clip")  # unlike "raise", it does not buffer
    return values.reshape(codes.shape + table.shape[1:])


def nearest(table: Float[Array, " n"], values: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """The index of the entry nearest to each value, of an ascending table; a tie goes to the even index.

    Beyond the last entry it is the last. NaN goes there too.
    """
    values = np.asarray(values)
    between = ((table[:-1] + table[1:]) / 2).astype(values.dtype)
    between[1::2] = np.nextafter(between[1::2], values.dtype.type(0))  # from odd to even: the tie itself goes up
    flat = values.reshape(-1)
    codes = np.empty(flat.size, np.uint8)
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        codes[part] = np.searchsorted(between, flat[part])
    return codes.reshape(values.shape)
