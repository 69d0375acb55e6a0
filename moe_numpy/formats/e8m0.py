"""E8M0: a power of two in one byte, for scales.

    value = 2^(byte - 127)      byte 0 ... 254;  255 is NaN

Source: OCP Microscaling Formats (MX) Specification 1.0 (2023), section 5.4.1.
"""

import numpy as np

from ..typing import Array, Float, Int, UInt8
from .tables import look_up

_NAN = 255
_BIAS = 127
_VALUES = np.append(np.ldexp(1.0, np.arange(_NAN) - _BIAS), np.nan)


def decode(codes: UInt8[Array, "..."], dtype: np.typing.DTypeLike = np.float32) -> Float[Array, "..."]:
    """The value of each byte, exactly. 2^-127 is subnormal in float32."""
    return look_up(_VALUES, codes, np.dtype(dtype))


def encode(exponents: Int[Array, "..."]) -> UInt8[Array, "..."]:
    """The byte of 2^exponent; of the nearest power of two that has one."""
    return (np.clip(exponents, -_BIAS, _NAN - 1 - _BIAS) + _BIAS).astype(np.uint8)
