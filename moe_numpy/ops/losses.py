"""The loss of a language model."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Integer

from ..autodiff import Function
from ..devices import on_host
from ..kernels import kernel
from ..typing import Array, Float


@kernel
def cross_entropy(
    x: Float[Array, "n V"], target: Integer[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, "n V"]]:
    """ln Σ_v e^{x[n,v]} - x[n, target[n]] for each row, and softmax(x), which the gradient needs."""
    shifted = x - x.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    return np.log(total[:, 0]) - shifted[np.arange(len(target)), target], e / total


@kernel
def cross_entropy_gradient(
    grad: Float[Array, " n"], p: Float[Array, "n V"], target: Integer[Array, " n"]
) -> Float[Array, "n V"]:
    """dx = dy_n (p - onehot(target))."""
    difference = p.copy()
    difference[np.arange(len(target)), target] -= 1
    return grad[:, None] * difference


class CrossEntropy(Function):
    """L = mean over n of ln Σ_v e^{x[n,v]} - x[n, t[n]], in nats: softmax and log-likelihood in one.

    Args:
        ignore_index: targets of this value count neither in the sum nor in n.

    Raises:
        TypeError: the targets are not integers.
        ValueError: the shapes do not fit, a target is outside 0 ... V-1, or no target counts. Targets on a GPU are
            trusted to be in range: checking them would wait for it.
    """

    def forward(
        self,
        logits: Float[Array, "*batch V"],
        targets: Integer[Array, "*batch"],
        *,
        ignore_index: int | None = None,
    ) -> Float[Array, ""]:
        """The mean loss, in float32 or wider."""
        xp = array_namespace(logits)
        num_classes = logits.shape[-1]
        if targets.dtype.kind not in "iu":
            raise TypeError(f"targets must be integers, got dtype {targets.dtype}")
        if targets.shape != logits.shape[:-1]:
            raise ValueError(f"targets must have shape {logits.shape[:-1]}, got {targets.shape}")
        t = targets.reshape(-1)
        self.ignored = None if ignore_index is None else t == ignore_index
        counted = t if self.ignored is None else t[~self.ignored]
        if counted.size == 0:
            raise ValueError(f"none of the {targets.size} targets counts (ignore_index={ignore_index})")
        if on_host(counted) and (counted.min() < 0 or counted.max() >= num_classes):
            raise ValueError(
                f"targets must be between 0 and {num_classes - 1}, got values from {counted.min()} to {counted.max()}"
            )
        if self.ignored is not None:
            t = xp.where(self.ignored, 0, t)
        x = logits.reshape(-1, num_classes).astype(xp.result_type(logits.dtype, xp.float32), copy=False)
        losses, p = cross_entropy(x, t)
        self.save(p, t)
        self.shape, self.n = logits.shape, counted.size
        return losses.mean() if self.ignored is None else losses[~self.ignored].mean()

    def backward(self, grad: Float[Array, ""]) -> Any:
        """dx = dy (p - onehot(t)) / n with p = softmax(x); 0 where the target is ignored."""
        p, t = self.saved
        of_each = array_namespace(p).full(t.shape, grad / self.n, dtype=p.dtype)
        dx = cross_entropy_gradient(of_each, p, t)
        if self.ignored is not None:
            dx[self.ignored] = 0  # not 0 · p: an ignored row may be NaN
        return dx.reshape(self.shape), None
