"""bfloat16: the upper half of a float32, as uint16 bits.

    value = (-1)^s (1 + m / 2^7) 2^(e - 127)        s 1 bit, e 8 bits, m 7 bits

The range is that of float32; two to three decimal digits remain. NumPy has no such type, so bits are kept as uint16.
Source: Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", section 3.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..typing import Array, Float, UInt16
from .matrix import Matrix, checked


def decode(bits: UInt16[Array, "..."]) -> Float[Array, "..."]:
    """The float32 of each bfloat16, exactly."""
    if bits.dtype != np.uint16:
        raise ValueError(f"bits must be uint16, got {bits.dtype}")
    wide = bits.astype(np.uint32, order="C")
    wide <<= 16
    return wide.view(np.float32)


def encode(values: Float[Array, "..."]) -> UInt16[Array, "..."]:
    """The nearest bfloat16 of each float32; a tie goes to the even one, and NaN stays NaN.

    With the bits u of a float32, u >> 16 truncates. Adding 0x7FFF before, and 1 more where the truncated bits are odd,
    carries into them exactly where rounding goes up.
    """
    if values.dtype != np.float32:
        raise ValueError(f"values must be float32, got {values.dtype}")
    bits = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    narrow = rounded.astype(np.uint16)
    nan = np.isnan(bits.view(np.float32))
    narrow[nan] = (bits[nan] >> 16) | 0x40  # carrying or truncating could have made them infinite
    return narrow.reshape(values.shape)


@dataclass(frozen=True, eq=False)
class BFloat16Matrix(Matrix):
    """Weights [out, in] from bits [out, in] of uint16. ValueError for other arrays."""

    bits: Array
    format = "bfloat16"

    def __post_init__(self) -> None:
        checked("bits", self.bits, np.uint16, 2)

    @property
    def arrays(self) -> dict[str, Array]:
        return {"bits": self.bits}

    @property
    def shape(self) -> tuple[int, int]:
        return self.bits.shape

    def dequantise(self, dtype: np.typing.DTypeLike = np.float32) -> Float[Array, "out in"]:
        return decode(self.bits).astype(dtype, copy=False)

    @classmethod
    def encode(cls, weights: Float[Array, "*batch out in"], **settings: Any) -> dict[str, Array]:
        bits = encode(weights)
        if ((bits & 0x7FFF) == 0x7F80).any():
            raise ValueError(f"bfloat16: weights must be below 3.396e38, got {np.abs(weights).max()}")
        return {"bits": bits}
