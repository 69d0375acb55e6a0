"""int8: weights of eight bits, symmetric around zero, with one scale for 32 of them along ``in``: 8.5 bits a weight.

    w_ij = q_ij s_{i, j // 32}        s = max |w| / 127 of its group, rounded to bfloat16;  q = round(w / s)

codes [..., out, in] of int8, scales [..., out, in / 32] of bfloat16 bits. Groups and levels are those of llama.cpp's
Q8_0, which keeps its scale in float16 in front of the 32 codes (``block_q8_0`` in ggml-common.h); why bfloat16:
``groups.py``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..typing import Array, Float, Shaped, UInt16
from . import bfloat16
from .groups import GROUP, chunks_of, codes_of, in_groups, scale_bits
from .matrix import Matrix, checked

LARGEST = 127


def quantise(
    weights: Float[Array, "*batch out in"],
) -> tuple[Shaped[Array, "*batch out in"], UInt16[Array, "*batch out n"]]:
    """Codes and scales of finite float32 weights. A group of zeros has scale 0.

    Raises:
        ValueError: ``in`` is no multiple of 32.
    """
    groups = in_groups(weights, "int8")
    codes, bits = np.empty(groups.shape, np.int8), np.empty(len(groups), np.uint16)
    for part in chunks_of(groups):
        bits[part] = scale_bits(np.abs(groups[part]).max(1) / np.float32(LARGEST), LARGEST)
        codes[part] = codes_of(groups[part], bits[part], -LARGEST, LARGEST)
    return codes.reshape(weights.shape), bits.reshape(*weights.shape[:-1], weights.shape[-1] // GROUP)


def dequantise(
    codes: Shaped[Array, "*batch out in"],
    scales: UInt16[Array, "*batch out n"],
    dtype: np.typing.DTypeLike = np.float32,
) -> Float[Array, "*batch out in"]:
    """q s, exactly."""
    weights = codes.astype(dtype).reshape(*scales.shape, GROUP)
    with np.errstate(over="ignore", invalid="ignore"):  # of scales that quantise does not make
        weights *= bfloat16.decode(scales)[..., None]
    return weights.reshape(codes.shape)


@dataclass(frozen=True, eq=False)
class Int8Matrix(Matrix):
    """Weights [out, in] from codes [out, in] and scales [out, in / 32]. ValueError for other arrays."""

    codes: Array
    scales: Array
    format = "int8"

    def __post_init__(self) -> None:
        checked("codes", self.codes, np.int8, 2)
        checked("scales", self.scales, np.uint16, 2)
        out, width = self.codes.shape
        if width % GROUP or self.scales.shape != (out, width // GROUP):
            raise ValueError(
                f"int8: codes [out, in] need scales [out, in / {GROUP}], got {self.codes.shape} and {self.scales.shape}"
            )

    @property
    def arrays(self) -> dict[str, Array]:
        return {"codes": self.codes, "scales": self.scales}

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape

    def dequantise(self, dtype: np.typing.DTypeLike = np.float32) -> Float[Array, "out in"]:
        return dequantise(self.codes, self.scales, dtype)

    @classmethod
    def encode(cls, weights: Float[Array, "*batch out in"], **settings: Any) -> dict[str, Array]:
        codes, scales = quantise(weights)
        return {"codes": codes, "scales": scales}
