"""The dense feed-forward layer that a Mixture of Experts replaces."""

from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..ops import SwiGLU
from ..typing import Float, Random
from .linear import Linear
from .module import Module


class FeedForward(Module):
    """y = D (silu(G x) ⊙ U x): the SwiGLU layer (Shazeer 2020, equation 6), run on every token.

    Args:
        d_model: width of x and y.
        d_ff: hidden width f; the three matrices have 3 · d_model · d_ff entries.
        bias: whether the three maps have biases.
        rng: draws the weights from N(0, 1/fan-in).
        dtype: of the weights.
    """

    def __init__(self, d_model: int, d_ff: int, bias: bool = False, *, rng: Random, dtype: Any = np.float32):
        self.gate = Linear(d_model, d_ff, bias, rng=rng, dtype=dtype)
        self.up = Linear(d_model, d_ff, bias, rng=rng, dtype=dtype)
        self.down = Linear(d_ff, d_model, bias, rng=rng, dtype=dtype)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return self.down(SwiGLU.apply(self.gate(x), self.up(x)))
