"""Linear maps and norms from arrays to arrays: what the steps of decoding are made of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..nn import LayerNorm, Linear, RMSNorm
from ..typing import Float


class Map:
    """y = W x + b for each row of x, W in whatever format it is stored."""

    def __init__(self, layer: Linear):
        self.weight = np.asarray(layer.weight.data, np.float32)
        self.bias = None if layer.bias is None else np.asarray(layer.bias.data, np.float32)

    @classmethod
    def of(cls, weight: Float[np.ndarray, "o i"]) -> "Map":
        """A map without bias."""
        self = cls.__new__(cls)
        self.weight, self.bias = weight, None
        return self

    def __call__(self, x: Float[np.ndarray, "N i"]) -> Float[np.ndarray, "N o"]:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


def norm_of(layer: RMSNorm | LayerNorm) -> Callable[[Any], Any]:
    """A norm of rows."""
    weight = np.asarray(layer.weight.data, np.float32)
    if isinstance(layer, RMSNorm):
        return lambda x: ops.RMSNorm.compute(x, weight, eps=layer.eps)
    bias = None if layer.bias is None else np.asarray(layer.bias.data, np.float32)
    return lambda x: ops.LayerNorm.compute(x, weight, bias, eps=layer.eps)
