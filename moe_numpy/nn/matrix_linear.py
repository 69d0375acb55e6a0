"""A linear layer whose weights are stored in some number format."""

import numpy as np

from ..autodiff import Tensor
from ..formats import Matrix
from ..typing import Float
from .module import Module, Parameter


class MatrixLinear(Module):
    """y = W x + b for evaluation: W has no gradient, and is not decoded as a whole.

    Args:
        matrix: W.
        bias: b, or None.
        counted: whether its weights are parameters of the model; False where another part has the same ones.
    """

    def __init__(self, matrix: Matrix, bias: Parameter | None = None, *, counted: bool = True):
        self.matrix, self.bias = matrix, bias
        self.num_stored = matrix.shape[0] * matrix.shape[1] if counted else 0

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        """Each vector by itself, in its own type."""
        y = self.matrix.product(np.ascontiguousarray(x.data).reshape(-1, x.shape[-1]))
        if self.bias is not None:
            y = y + self.bias.data
        return Tensor(y.reshape(*x.shape[:-1], y.shape[-1]))
