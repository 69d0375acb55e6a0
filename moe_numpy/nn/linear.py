"""A linear layer."""

import math
from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..ops import Affine
from ..typing import Float, Random
from .module import Module, constant, normal
from .sizes import require_sizes


class Linear(Module):
    """y = x Wᵀ + b.

    Args:
        d_in: length of the input vectors.
        d_out: length of the output vectors.
        bias: whether there is a b; it starts at 0.
        std: standard deviation of the initial weights; None for 1/√d_in, which preserves the variance.
        rng: draws the weights.
        dtype: type of the parameters.

    Raises:
        ValueError: a length is not an integer of at least 1.
        TypeError: ``rng`` is not a generator.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        bias: bool = False,
        std: float | None = None,
        *,
        rng: Random,
        dtype: Any = np.float32,
    ):
        require_sizes(d_in=d_in, d_out=d_out)
        self.weight = normal(rng, (d_out, d_in), 1 / math.sqrt(d_in) if std is None else std, dtype)
        self.bias = constant(rng, d_out, 0, dtype) if bias else None

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        return Affine.apply(x, self.weight, self.bias)
