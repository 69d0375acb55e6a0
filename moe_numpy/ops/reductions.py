"""Reductions over axes: sum, mean, maximum and log-sum-exp."""

import math
from typing import Any, TypeAlias

from array_api_compat import array_namespace

from ..autodiff import Function, decisions
from ..autodiff.arrays import sum_of
from ..typing import Array, Float, Shaped

Axis: TypeAlias = int | tuple[int, ...] | None


class Sum(Function):
    """y = Σ x over the given axes.

    Args:
        axis: one axis, several, or None for all.
        keepdims: keep the summed axes with length 1.
    """

    def forward(self, x: Shaped[Array, "..."], *, axis: Axis = None, keepdims: bool = False) -> Any:
        self.shape, self.axis = x.shape, axis
        return sum_of(x, axis, keepdims)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy, repeated along the summed axes."""
        return _repeat(grad, self.shape, self.axis)


class Mean(Function):
    """y = (1/n) Σ x over the given axes, n entries each.

    Args:
        axis: one axis, several, or None for all.
        keepdims: keep the averaged axes with length 1.
    """

    def forward(self, x: Float[Array, "..."], *, axis: Axis = None, keepdims: bool = False) -> Any:
        self.shape, self.axis = x.shape, axis
        return x.mean(axis=axis, keepdims=keepdims)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy / n, repeated along the averaged axes."""
        n = math.prod(self.shape) // math.prod(grad.shape)
        return _repeat(grad / n, self.shape, self.axis)


class Max(Function):
    """y = max x over one axis or over all. Of equal entries the first gets the gradient.

    Args:
        axis: one axis, or None for all.
        keepdims: keep the axis (or all axes) with length 1.
    """

    def forward(self, x: Float[Array, "..."], *, axis: int | None = None, keepdims: bool = False) -> Any:
        xp = array_namespace(x)
        self.shape, self.axis = x.shape, axis
        rows = x.reshape(-1) if axis is None else xp.moveaxis(x, axis, -1)
        self.argmax = rows.argmax(axis=-1)[..., None]  # argmax returns the first of several
        decisions.record("arg-max", self.argmax.reshape(-1), lambda i: _lead(rows, i))
        return x.max(axis=axis, keepdims=keepdims)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy at the maximum, 0 elsewhere."""
        xp = array_namespace(grad)
        chosen = xp.arange(self._row_length()) == self.argmax
        rows = chosen * grad.reshape(self.argmax.shape)
        return rows.reshape(self.shape) if self.axis is None else xp.moveaxis(rows, -1, self.axis)

    def _row_length(self) -> int:
        return math.prod(self.shape) if self.axis is None else self.shape[self.axis]


class LogSumExp(Function):
    """y = ln Σ eˣ over the given axes, without overflow: m + ln Σ eˣ⁻ᵐ with m = max x.

    An x of only -inf gives NaN.

    Args:
        axis: one axis, several, or None for all. They are absent from y.
    """

    def forward(self, x: Float[Array, "..."], *, axis: Axis) -> Any:
        xp = array_namespace(x)
        m = x.max(axis=axis, keepdims=True)
        e = xp.exp(x - m)
        total = e.sum(axis=axis, keepdims=True)
        self.axis = axis
        self.save(e / total)
        return xp.squeeze(m + xp.log(total), axis=axis)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy softmax(x)."""
        (p,) = self.saved
        return p * _repeat(grad, p.shape, self.axis)


def _repeat(grad: Float[Array, "..."], shape: tuple[int, ...], axis: Axis) -> Float[Array, "..."]:
    """The adjoint of a sum over ``axis``: a read-only view of ``grad`` in the shape that x had."""
    reduced = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    with_ones = list(shape)
    for a in reduced:
        with_ones[a] = 1
    return array_namespace(grad).broadcast_to(grad.reshape(with_ones), shape)


def _lead(rows: Float[Array, "..."], i: int) -> str:
    """By how much the largest entry of row i leads."""
    row = sorted(rows.reshape(-1, rows.shape[-1])[i].tolist(), reverse=True)
    return f"row {i}: the largest entry leads by {row[0] - row[1]:.1e}" if len(row) > 1 else f"row {i} has one entry"
