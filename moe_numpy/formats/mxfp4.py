"""MXFP4: weights of four bits, with one power of two for 32 of them along ``in``.

    w_ij = v(q_ij) 2^(x_{i, j // 32} - 127)         v: 0 0.5 1 1.5 2 3 4 6 and their negatives

An element q is E2M1: a sign, two bits of exponent with bias 1, one bit of mantissa. The scale x is E8M0.

As Hugging Face stores it: blocks [..., out, in / 32, 16] of bytes, each with two neighbours, the even column in its low
four bits and the odd one in its high four bits; scales [..., out, in / 32].

Sources: OCP Microscaling Formats (MX) Specification 1.0 (2023), sections 5.3.3, 5.4.1 and 6.3; the expert weights of
gpt-oss (OpenAI 2025, gpt-oss-120b & gpt-oss-20b Model Card, section 2.1).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..typing import Array, Float, UInt8
from . import e8m0
from .matrix import Matrix, checked
from .tables import look_up, magnitudes, nearest

BLOCK = 32
_MAGNITUDES = magnitudes(exponent_bits=2, mantissa_bits=1, bias=1)
_LARGEST_EXPONENT = 2  # of 6 = 1.5 * 2^2
_VALUES = np.concatenate([_MAGNITUDES, -_MAGNITUDES])
_PAIRS = np.stack([np.tile(_VALUES, 16), np.repeat(_VALUES, 16)], axis=1)  # of all 256 bytes: low half, high half


def dequantise(
    blocks: UInt8[Array, "*batch out n 16"],
    scales: UInt8[Array, "*batch out n"],
    dtype: np.typing.DTypeLike = np.float32,
) -> Float[Array, "*batch out in"]:
    """Weights from bytes and scales, exactly, in float32 or float64; beyond the largest float32 is infinity.

    Raises:
        ValueError: a shape or a type is another one.
    """
    _check(blocks, scales)
    weights = look_up(_PAIRS, blocks, np.dtype(dtype)).reshape(*scales.shape, BLOCK)
    with np.errstate(over="ignore"):
        weights *= e8m0.decode(scales, dtype)[..., None]
    return weights.reshape(*scales.shape[:-1], -1 if scales.size else scales.shape[-1] * BLOCK)


def quantise(
    weights: Float[Array, "*batch out in"],
) -> tuple[UInt8[Array, "*batch out n 16"], UInt8[Array, "*batch out n"]]:
    """Bytes and scales of weights: s = 2^(floor(log2 max |w|) - 2) in each block of 32, and q nearest to w / s.

    A tie goes to the even element. max |w| / s is below 8; what is above 6 becomes 6.

    Raises:
        ValueError: ``in`` is no multiple of 32, or a weight is not finite.
    """
    if weights.shape[-1] % BLOCK:
        raise ValueError(f"the last axis must be a multiple of {BLOCK}, got {weights.shape}")
    if not np.isfinite(weights).all():
        raise ValueError("weights must be finite")
    grouped = weights.reshape(*weights.shape[:-1], weights.shape[-1] // BLOCK, BLOCK)
    _, exponent = np.frexp(np.abs(grouped).max(-1))  # max |w| = a 2^exponent with 0.5 <= a < 1
    scales = e8m0.encode(exponent - 1 - _LARGEST_EXPONENT)
    scaled = grouped / e8m0.decode(scales, weights.dtype)[..., None]
    codes = nearest(_MAGNITUDES, np.abs(scaled))
    codes |= np.signbit(scaled).view(np.uint8) << 3
    return codes[..., 0::2] | codes[..., 1::2] << 4, scales


@dataclass(frozen=True, eq=False)
class MXFP4Matrix(Matrix):
    """Weights [out, in] from blocks [out, in / 32, 16] and scales [out, in / 32]. ValueError for other arrays."""

    blocks: Array
    scales: Array
    format = "mxfp4"
    even_first = True

    def __post_init__(self) -> None:
        checked("blocks", self.blocks, np.uint8, 3)
        checked("scales", self.scales, np.uint8, 2)
        _check(self.blocks, self.scales)

    @property
    def arrays(self) -> dict[str, Array]:
        return {"blocks": self.blocks, "scales": self.scales}

    @property
    def shape(self) -> tuple[int, int]:
        return self.scales.shape[0], self.scales.shape[1] * BLOCK

    def dequantise(self, dtype: np.typing.DTypeLike = np.float32) -> Float[Array, "out in"]:
        return dequantise(self.blocks, self.scales, dtype)

    @classmethod
    def encode(cls, weights: Float[Array, "*batch out in"], **settings: Any) -> dict[str, Array]:
        blocks, scales = quantise(weights)
        return {"blocks": blocks, "scales": scales}


def _check(blocks: Array, scales: Array) -> None:
    if blocks.ndim < 3 or blocks.shape[-1] != BLOCK // 2 or blocks.shape[:-1] != scales.shape:
        raise ValueError(
            f"blocks must be [..., out, in / 32, 16] and scales [..., out, in / 32], got {blocks.shape} and "
            f"{scales.shape}"
        )
