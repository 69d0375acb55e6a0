"""int4: weights of four bits, symmetric around zero, with one scale for 32 of them along ``in``: 4.5 bits a weight.

    w_ij = (q_ij - 8) s_{i, j // 32}        s = m / -8 of its group, rounded to bfloat16;  q = round(w / s) + 8

m is the weight of largest magnitude, with its sign: it becomes -8, which has no counterpart among -8 ... 7, and the
scale may be negative. With m / 7 instead, the root mean square error of normally distributed weights is 13 % larger.

codes [..., out, in / 32, 16] of bytes, each with two weights of a group: j in its low four bits and j + 16 in its high
four; scales [..., out, in / 32] of bfloat16 bits. Levels and the order of codes are those of llama.cpp's Q4_0, which
keeps its scale in float16 in front of the 16 bytes (``block_q4_0`` in ggml-common.h); why bfloat16: ``groups.py``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..typing import Array, Float, UInt8, UInt16
from . import bfloat16
from .groups import GROUP, chunks_of, codes_of, in_groups, scale_bits
from .matrix import Matrix, checked

_BYTES = GROUP // 2
_ZERO = 8  # the code of 0


def quantise(
    weights: Float[Array, "*batch out in"],
) -> tuple[UInt8[Array, "*batch out n 16"], UInt16[Array, "*batch out n"]]:
    """Codes and scales of finite float32 weights. A group of zeros has scale 0.

    Raises:
        ValueError: ``in`` is no multiple of 32.
    """
    groups = in_groups(weights, "int4")
    codes, bits = np.empty((len(groups), _BYTES), np.uint8), np.empty(len(groups), np.uint16)
    for part in chunks_of(groups):
        largest = np.take_along_axis(groups[part], np.abs(groups[part]).argmax(1)[:, None], 1)[:, 0]
        bits[part] = scale_bits(largest / np.float32(-_ZERO), _ZERO)
        q = (codes_of(groups[part], bits[part], -8, 7) + _ZERO).astype(np.uint8)
        codes[part] = q[:, :_BYTES] | q[:, _BYTES:] << 4
    shape = *weights.shape[:-1], weights.shape[-1] // GROUP
    return codes.reshape(*shape, _BYTES), bits.reshape(shape)


def dequantise(
    codes: UInt8[Array, "*batch out n 16"],
    scales: UInt16[Array, "*batch out n"],
    dtype: np.typing.DTypeLike = np.float32,
) -> Float[Array, "*batch out in"]:
    """(q - 8) s, exactly."""
    weights = array_namespace(codes).empty((*scales.shape, GROUP), dtype=dtype)
    weights[..., :_BYTES] = codes & 15
    weights[..., _BYTES:] = codes >> 4
    weights -= _ZERO
    with np.errstate(over="ignore", invalid="ignore"):  # of scales that quantise does not make
        weights *= bfloat16.decode(scales)[..., None]
    return weights.reshape(*scales.shape[:-1], scales.shape[-1] * GROUP)


@dataclass(frozen=True, eq=False)
class Int4Matrix(Matrix):
    """Weights [out, in] from codes [out, in / 32, 16] and scales [out, in / 32]. ValueError for others."""

    codes: Array
    scales: Array
    format = "int4"

    def __post_init__(self) -> None:
        checked("codes", self.codes, np.uint8, 3)
        checked("scales", self.scales, np.uint16, 2)
        if self.codes.shape != (*self.scales.shape, _BYTES):
            raise ValueError(
                f"int4: codes [out, in / {GROUP}, {_BYTES}] need scales [out, in / {GROUP}], "
                f"got {self.codes.shape} and {self.scales.shape}"
            )

    @property
    def arrays(self) -> dict[str, Array]:
        return {"codes": self.codes, "scales": self.scales}

    @property
    def shape(self) -> tuple[int, int]:
        return self.scales.shape[0], self.scales.shape[1] * GROUP

    def dequantise(self, dtype: np.typing.DTypeLike = np.float32) -> Float[Array, "out in"]:
        return dequantise(self.codes, self.scales, dtype)

    @classmethod
    def encode(cls, weights: Float[Array, "*batch out in"], **settings: Any) -> dict[str, Array]:
        codes, scales = quantise(weights)
        return {"codes": codes, "scales": scales}
