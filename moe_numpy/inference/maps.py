"""Linear maps and norms from arrays to arrays: what the steps of decoding are made of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..formats import FORMATS, Matrix, quantise
from ..formats.bfloat16 import BFloat16Matrix
from ..formats.float32 import Float32Matrix
from ..nn import LayerNorm, Linear, MatrixLinear, RMSNorm
from ..typing import Float

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
        self.bias = None if bias is None else np.asarray(bias, np.float32)

    @classmethod
    def of(cls, layer: Linear | MatrixLinear, format: str | None = None) -> "Map":
        """What a layer computes."""
        weights = layer.matrix if isinstance(layer, MatrixLinear) else layer.weight.data
        return cls(matrix_of(weights, format), None if layer.bias is None else layer.bias.data)

    def __call__(self, x: Float[np.ndarray, "N i"]) -> Float[np.ndarray, "N o"]:
        y = self.weight.product(x)
        return y if self.bias is None else y + self.bias


def norm_of(layer: RMSNorm | LayerNorm) -> Callable[[Any], Any]:
    """A norm of rows."""
    weight = np.asarray(layer.weight.data, np.float32)
    if isinstance(layer, RMSNorm):
        return lambda x: ops.RMSNorm.compute(x, weight, eps=layer.eps)
    bias = None if layer.bias is None else np.asarray(layer.bias.data, np.float32)
    return lambda x: ops.LayerNorm.compute(x, weight, bias, eps=layer.eps)
