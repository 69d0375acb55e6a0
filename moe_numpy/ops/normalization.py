"""Normalisation over the last axis."""

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function
from ..autodiff.arrays import sum_of
from ..kernels import kernel
from ..typing import Array, Float


@kernel(wide=(1,))
def rms_norm(
    x: Float[Array, "*batch d"], weight: Float[Array, " d"], eps: float
) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch 1"]]:
    """y = w x r and r = 1 / √(mean x² + ε), the mean over the last axis."""
    r = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return weight * x * r, r


@kernel
def rms_norm_gradient(
    grad: Float[Array, "*batch d"], x: Float[Array, "*batch d"], r: Float[Array, "*batch 1"], weight: Float[Array, " d"]
) -> tuple[Float[Array, "*batch d"], Float[Array, " d"]]:
    """dx = r (h - x̂ mean(h x̂)) with h = dy w and x̂ = x r; dw = Σ dy x̂ over all rows."""
    x_hat, h = x * r, grad * weight
    dx = r * (h - x_hat * (h * x_hat).mean(axis=-1, keepdims=True))
    return dx, (grad * x_hat).reshape(-1, x.shape[-1]).sum(axis=0)


class RMSNorm(Function):
    """y = w x̂ with x̂ = x / √(mean x² + ε) over the last axis (Zhang and Sennrich 2019, eq. 4).

    Args:
        eps: ε, keeps a row of zeros finite.
    """

    def forward(
        self, x: Float[Array, "*batch d"], weight: Float[Array, "d"], *, eps: float = 1e-6
    ) -> Float[Array, "*batch d"]:
        """Scale every vector to root mean square 1, then by the weight. ValueError for a weight of another length."""
        _require_length(x, weight=weight)
        if x.shape[-1] == 0:  # the mean of nothing
            self.save(x, x, weight)
            return x * weight
        y, r = rms_norm(x, weight, eps)
        self.save(x, r, weight)
        return y

    def backward(self, grad: Float[Array, "*batch d"]) -> Any:
        """dx = r (h - x̂ mean(h x̂)) with h = dy w and r = 1/√(mean x² + ε); dw = Σ dy x̂."""
        if grad.shape[-1] == 0:
            return grad, grad
        return rms_norm_gradient(grad, *self.saved)


class LayerNorm(Function):
    """y = w x̂ + b with x̂ = (x - mean x) / √(var x + ε) over the last axis (Ba, Kiros and Hinton 2016).

    The variance is the population's: divided by d.

    Args:
        bias: b, or None for none.
        eps: ε, keeps a constant row finite.

    Raises:
        ValueError: the weight or the bias has another length than the vectors.
    """

    def forward(
        self,
        x: Float[Array, "*batch d"],
        weight: Float[Array, "d"],
        bias: Float[Array, "d"] | None,
        *,
        eps: float = 1e-5,
    ) -> Float[Array, "*batch d"]:
        vectors = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        _require_length(x, **vectors)
        xp = array_namespace(x)
        self.dtype = np.result_type(x.dtype, *[vector.dtype for vector in vectors.values()])
        x = x.astype(np.result_type(x.dtype, np.float32), copy=False)
        centred = x - _mean(x)
        r = 1 / xp.sqrt(_mean_product(centred, centred) + eps)
        x_hat = centred * r
        self.save(x_hat, r, weight)
        y = x_hat * weight if bias is None else x_hat * weight + bias
        return y.astype(self.dtype, copy=False)

    def backward(self, grad: Float[Array, "*batch d"]) -> Any:
        """dx = r (h - mean h - x̂ mean(h x̂)) with h = dy w; dw = Σ dy x̂; db = Σ dy."""
        x_hat, r, weight = self.saved
        h = grad * weight
        h = h.astype(np.result_type(h.dtype, np.float32), copy=False)
        dx = r * (h - _mean(h) - x_hat * _mean_product(h, x_hat))
        dbias = _sum_rows(grad) if self.needs_grad(2) else None
        return tuple(
            [None if d is None else d.astype(self.dtype, copy=False) for d in (dx, _sum_rows(grad * x_hat), dbias)]
        )


def _require_length(x: Float[Array, "..."], **vectors: Any) -> None:
    for name, vector in vectors.items():
        if x.ndim == 0 or vector.shape != x.shape[-1:]:
            raise ValueError(f"{name} must be a vector as long as the last axis of x, got {vector.shape} for {x.shape}")


def _mean(x: Float[Array, "*batch d"]) -> Float[Array, "*batch 1"]:
    return x.sum(axis=-1, keepdims=True) / max(x.shape[-1], 1)


def _mean_product(a: Float[Array, "*batch d"], b: Float[Array, "*batch d"]) -> Float[Array, "*batch 1"]:
    """mean(a b) over the last axis, without the array a b."""
    return array_namespace(a).vecdot(a, b)[..., None] / max(a.shape[-1], 1)


def _sum_rows(x: Float[Array, "*batch d"]) -> Float[Array, "d"]:
    return sum_of(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), 0)
