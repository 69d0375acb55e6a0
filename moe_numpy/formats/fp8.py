"""FP8 E4M3: a weight in one byte, with one scale for each block of a matrix.

    value = (-1)^s (1 + m / 8) 2^(e - 7)        s 1 bit, e 4 bits > 0, m 3 bits
            (-1)^s (m / 8) 2^-6                 e = 0
            NaN                                 e = 15 and m = 7: 0x7F and 0xFF

There is no infinity, so that 448 is the largest value ("fn": finite, with NaN). The least is 2^-9.

A matrix [out, in] has scales [ceil(out / rows), ceil(in / columns)], one for each block of rows x columns; blocks at
the lower and right edge may be smaller. A weight is w_ij = q_ij s_{i // rows, j // columns}. Published files call s
``weight_scale_inv``: the inverse of what the weight was multiplied by. It multiplies.

Sources: Micikevicius et al. 2022, "FP8 Formats for Deep Learning", section 3; OCP 8-bit Floating Point Specification
1.0 (2023); blocks of 128 x 128: DeepSeek-V3 2024, section 3.3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..typing import Array, Float, Shaped, UInt8
from . import e8m0
from .matrix import Matrix, Operands, checked
from .tables import look_up, magnitudes, nearest

LARGEST = 448.0
BLOCK = (128, 128)
_NAN = 0x7F
_MAGNITUDES = magnitudes(exponent_bits=4, mantissa_bits=3, bias=7)[:_NAN]
_POSITIVE = np.append(_MAGNITUDES, np.nan)
_VALUES = np.concatenate([_POSITIVE, -_POSITIVE])


def decode(codes: UInt8[Array, "..."], dtype: np.typing.DTypeLike = np.float32) -> Float[Array, "..."]:
    """The value of each byte, exactly, in float32 or float64."""
    return look_up(_VALUES, codes, np.dtype(dtype))


def encode(values: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """The byte of the value nearest to each; a tie goes to the even byte. NaN and what rounds beyond 448 become NaN."""
    magnitude = np.abs(values)
    codes = nearest(_MAGNITUDES, magnitude)
    codes[~(magnitude <= 464)] = _NAN  # halfway from 448 to 480, which NaN stands for
    codes |= np.signbit(values).view(np.uint8) << 7
    return codes


def dequantise(
    codes: UInt8[Array, "*batch out in"],
    scales: Shaped[Array, "*batch rows columns"],
    block: tuple[int, int],
    dtype: np.typing.DTypeLike = np.float32,
) -> Float[Array, "*batch out in"]:
    """Weights from bytes and the scales of their blocks.

    Args:
        codes: E4M3 bytes.
        scales: of each block: floats, or bytes in E8M0, which are exponents.
        block: rows and columns of a block.
        dtype: float32 or float64, in which the product is rounded.

    Raises:
        ValueError: the number of scales is not that of the blocks, or a type is another one.
    """
    _check(codes, scales, block)
    weights = decode(codes, dtype)
    factors = e8m0.decode(scales, dtype) if scales.dtype == np.uint8 else scales.astype(weights.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond the largest float32 is infinity
        for i, rows in _rows_of_blocks(weights, block):
            rows *= _along_columns(factors[..., i, :], rows, block)
    return weights


def quantise(
    weights: Float[Array, "*batch out in"], block: tuple[int, int]
) -> tuple[UInt8[Array, "*batch out in"], Float[Array, "*batch rows columns"]]:
    """Bytes and float32 scales of weights: s = max |w| / 448 in each block, q the E4M3 nearest to w / s.

    A block of zeros has scale 1.

    Raises:
        ValueError: a weight is not finite.
    """
    codes = np.empty(weights.shape, np.uint8)
    scales = np.ones(_blocks_of(weights.shape, block), np.float32)
    starts = np.arange(0, weights.shape[-1], block[1])
    for i, rows in _rows_of_blocks(weights, block):
        largest = np.maximum.reduceat(np.abs(rows).max(-2), starts, axis=-1)
        if not (largest <= np.finfo(np.float32).max).all():
            raise ValueError("weights must be finite in float32")
        scale = np.maximum(largest / LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
        scales[..., i, :] = np.where(largest > 0, scale, 1)
        part = slice(i * block[0], (i + 1) * block[0])
        codes[..., part, :] = encode(rows / _along_columns(scales[..., i, :], rows, block))
    return codes, scales


def _blocks_of(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    """The shape of the scales of such weights."""
    if len(shape) < 2 or min(block) < 1:
        raise ValueError(f"weights must be matrices and blocks at least 1 x 1, got {shape} and {block}")
    return (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))


def _rows_of_blocks(weights: Shaped[Array, "*batch out in"], block: tuple[int, int]) -> Iterator[tuple[int, Array]]:
    """Views of the weights that have the scales of one row in common."""
    for i in range(-(-weights.shape[-2] // block[0]) if weights.size else 0):
        yield i, weights[..., i * block[0] : (i + 1) * block[0], :]


def _along_columns(scales: Float[Array, "*batch columns"], rows: Array, block: tuple[int, int]) -> Array:
    """The scale of each column, as a row."""
    return np.repeat(scales, min(block[1], rows.shape[-1]), axis=-1)[..., None, : rows.shape[-1]]


@dataclass(frozen=True, eq=False)
class FP8Matrix(Matrix):
    """Weights [out, in] from codes [out, in] and scales of blocks. ValueError for other arrays.

    Args:
        codes: E4M3 bytes.
        scales: [ceil(out / rows), ceil(in / columns)]: floats, or bytes in E8M0.
        block: rows and columns of a block.
    """

    codes: Array
    scales: Array
    block: tuple[int, int] = BLOCK
    format = "fp8"

    def __post_init__(self) -> None:
        checked("codes", self.codes, np.uint8, 2)
        _check(self.codes, self.scales, self.block)

    @property
    def arrays(self) -> dict[str, Array]:
        return {"codes": self.codes, "scales": self.scales}

    @property
    def settings(self) -> dict[str, Any]:
        return {"block": self.block}

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape

    @classmethod
    def operands_of(cls, arrays: dict[str, Array], **settings: Any) -> Operands:
        """Scales repeated for every 32 columns, unless a block's columns are no multiple of 32."""
        (codes, scales), (rows, columns) = arrays.values(), settings["block"]
        groups = -(-codes.shape[-1] // 32)
        if columns % 32 and columns < codes.shape[-1]:
            return Operands(codes, None, rows, compiled=False)
        factors = e8m0.decode(scales) if scales.dtype == np.uint8 else scales.astype(np.float32)
        repeated = np.repeat(factors, min(-(-columns // 32), groups), axis=-1)[..., :groups]
        return Operands(codes, np.ascontiguousarray(repeated), rows)

    def rows(self, start: int, stop: int) -> "FP8Matrix":
        """A view of the rows start ... stop-1. ValueError if ``start`` is inside a block."""
        rows = self.block[0]
        if start % rows:
            raise ValueError(f"rows must start at a multiple of {rows}, the rows of a block, got {start}")
        return FP8Matrix(self.codes[start:stop], self.scales[start // rows : -(-stop // rows)], self.block)

    def dequantise(self, dtype: np.typing.DTypeLike = np.float32) -> Float[Array, "out in"]:
        return dequantise(self.codes, self.scales, self.block, dtype)

    @classmethod
    def encode(cls, weights: Float[Array, "*batch out in"], **settings: Any) -> dict[str, Array]:
        codes, scales = quantise(weights, **({"block": BLOCK} | settings))
        return {"codes": codes, "scales": scales}


def _check(codes: Array, scales: Array, block: tuple[int, int]) -> None:
    expected = _blocks_of(codes.shape, block)
    if scales.shape != expected:
        raise ValueError(f"weights {codes.shape} in blocks of {block} need scales {expected}, got {scales.shape}")
    if scales.dtype != np.uint8 and scales.dtype.kind != "f":
        raise ValueError(f"scales must be floats, or uint8 for E8M0, got {scales.dtype}")
