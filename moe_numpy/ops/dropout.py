"""Dropout."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function
from ..typing import Array, Float


class Dropout(Function):
    """y = x m / (1 - rate), m = 0 with probability ``rate`` and 1 otherwise, so that E[y] = x.

    (Srivastava et al. 2014, in the form that leaves nothing to do at evaluation.)

    Args:
        rate: the probability of dropping an entry; 0 <= rate < 1, ValueError otherwise.
        rng: draws m, always on the CPU, so that a seed gives the same mask on every device.
    """

    def forward(self, x: Float[Array, "*shape"], *, rate: float, rng: np.random.Generator) -> Float[Array, "*shape"]:
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be at least 0 and below 1, got {rate}")
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng must be a numpy.random.Generator, got {rng!r:.60}")
        xp = array_namespace(x)
        keep = xp.asarray(rng.random(x.shape, dtype=np.float32) >= rate)
        self.scale = (xp.ones((), dtype=x.dtype) / (1 - rate)).astype(x.dtype)
        self.save(keep)
        return xp.where(keep, x, 0) * self.scale

    def backward(self, grad: Float[Array, "*shape"]) -> Any:
        """dx = dy m / (1 - rate)."""
        (keep,) = self.saved
        return array_namespace(grad).where(keep, grad, 0) * self.scale
