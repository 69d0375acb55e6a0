"""Linear maps and norms from arrays to arrays: what the steps of decoding are made of."""

from typing import Any

import numpy as np

from .. import ops
from ..formats import FORMATS, Matrix, quantise
from ..formats.bfloat16 import BFloat16Matrix
from ..formats.float32 import Float32Matrix
from ..nn import LayerNorm, Linear, MatrixLinear, RMSNorm
from ..typing import Array, Float
from .program import Program

_GROUP = 32  # a width that every format takes is a multiple of it


def format_for(width: int, format: str) -> str:
    """The format, or bfloat16 for matrices whose width does not fit it. ValueError for an unknown one."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    return format if width % _GROUP == 0 else "bfloat16"


def matrix_of(weights: Any, format: str | None = None) -> Matrix:
    """Weights [out, in] in a format, or as they are; in bfloat16 where the width does not fit the format.

    They may be stored in a format already.
    """
    if isinstance(weights, Matrix):
        if format is None:
            return weights
        weights = weights.dequantise()
    if format is not None:
        return quantise(weights, format_for(weights.shape[-1], format))
    if weights.dtype.name == "bfloat16":
        return BFloat16Matrix(weights.view(np.uint16))
    return Float32Matrix(np.ascontiguousarray(weights, np.float32))


class Map:
    """y = W x + b for each row of x, whatever the format of W and the other rows."""

    def __init__(self, weight: Matrix, bias: Any = None):
        self.weight = weight
        self.bias = None if bias is None else np.ascontiguousarray(bias, np.float32)

    @classmethod
    def of(cls, layer: Linear | MatrixLinear, format: str | None = None) -> "Map":
        """What a layer computes."""
        weights = layer.matrix if isinstance(layer, MatrixLinear) else layer.weight.data
        return cls(matrix_of(weights, format), None if layer.bias is None else layer.bias.data)

    def __call__(self, x: Float[np.ndarray, "N i"]) -> Float[np.ndarray, "N o"]:
        y = self.weight.product(x)
        return y if self.bias is None else y + self.bias

    def add_to(self, program: Program, x: Float[Array, "N i"], name: str) -> Float[Array, "N o"]:
        """The same in a program; the answer is in the room of this name."""
        y = program.room(name, len(x), self.weight.shape[0])
        program.product(self.weight, x, y, self.bias)
        return y


class Norm:
    """A norm of rows."""

    def __init__(self, layer: RMSNorm | LayerNorm):
        weight, self.eps = np.ascontiguousarray(layer.weight.data, np.float32), layer.eps
        self.weight, self.root_mean_square = weight, isinstance(layer, RMSNorm)
        bias = getattr(layer, "bias", None)
        self.bias = None if bias is None else np.asarray(bias.data, np.float32)

    def __call__(self, x: Any) -> Any:
        if self.root_mean_square:
            return ops.RMSNorm.compute(x, self.weight, eps=self.eps)
        return ops.LayerNorm.compute(x, self.weight, self.bias, eps=self.eps)

    def add_to(self, program: Program, x: Float[Array, "N d"], name: str) -> Float[Array, "N d"]:
        """The same in a program; the answer is in the room of this name."""
        y = program.room(name, *x.shape)
        if self.root_mean_square:
            program.rms_norm(x, self.weight, self.eps, y)
        else:
            program.call(lambda: np.copyto(y, self(x)))
        return y
