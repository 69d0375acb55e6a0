"""Normalisation layers: the ops of the same names with their weights."""

from typing import Any

import numpy as np

from .. import ops
from ..autodiff import Tensor
from ..typing import Float
from .module import Module, constant
from .sizes import require_sizes


class RMSNorm(Module):
    """y = w x / √(mean x² + ε); see :class:`moe_numpy.ops.RMSNorm`.

    Args:
        d_model: length of the vectors.
        eps: ε.
        rng: of the model; nothing is drawn.
        dtype: type of w, which starts at 1.
    """

    def __init__(self, d_model: int, eps: float = 1e-6, *, rng: Any = None, dtype: Any = np.float32):
        require_sizes(d_model=d_model)
        self.weight = constant(rng, d_model, 1, dtype)
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return ops.RMSNorm.apply(x, self.weight, eps=self.eps)


class LayerNorm(Module):
    """y = w (x - mean x) / √(var x + ε) + b; see :class:`moe_numpy.ops.LayerNorm`.

    Args:
        d_model: length of the vectors.
        eps: ε.
        bias: whether there is a b.
        rng: of the model; nothing is drawn.
        dtype: type of w, which starts at 1, and b, which starts at 0.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, bias: bool = True, *, rng: Any = None, dtype: Any = np.float32):
        require_sizes(d_model=d_model)
        self.weight = constant(rng, d_model, 1, dtype)
        self.bias = constant(rng, d_model, 0, dtype) if bias else None
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return ops.LayerNorm.apply(x, self.weight, self.bias, eps=self.eps)
