"""Reductions over axes: sum, mean, maximum and log-sum-exp."""

import math
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function, decisions
from ..autodiff.arrays import one_axis, several_axes, sum_of
from ..typing import Array, Float, Shaped

Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | None


class Sum(Function):
    """y = Σ x over the given axes.

    Args:
        axis: one axis, several, or None for all.
        keepdims: keep the summed axes with length 1.
    """

    def forward(self, x: Shaped[Array, "..."], *, axis: Axis = None, keepdims: bool = False) -> Any:
        axis = several_axes(axis)
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
        axis = several_axes(axis)
        self.shape, self.axis = x.shape, axis
        return x.mean(axis=axis, keepdims=keepdims)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy / n, repeated along the averaged axes."""
        n = count_along(self.shape, self.axis)
        return _repeat(grad / max(n, 1), self.shape, self.axis)


class Max(Function):
    """y = max x over one axis or over all. Of equal entries the first gets the gradient.

    Args:
        axis: one axis, or None for all.
        keepdims: keep the axis (or all axes) with length 1.

    Raises:
        ValueError: there are no entries along the axis.
    """

    largest = True

    def forward(self, x: Shaped[Array, "..."], *, axis: SupportsIndex | None = None, keepdims: bool = False) -> Any:
        xp, axis = array_namespace(x), None if axis is None else one_axis(axis)
        self.shape, self.axis = x.shape, axis
        rows = x.reshape(-1) if axis is None else xp.moveaxis(x, axis, -1)
        if rows.shape[-1] == 0:
            raise ValueError(f"{self.name} needs at least one entry along axis {axis}, got shape {x.shape}")
        arg = rows.argmax(axis=-1) if self.largest else rows.argmin(axis=-1)  # the first of several
        self.chosen = arg[..., None]
        decisions.record(f"arg-{self.name.lower()}", arg.reshape(-1), lambda i: _lead(rows, i, self.largest))
        return x.max(axis=axis, keepdims=keepdims) if self.largest else x.min(axis=axis, keepdims=keepdims)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy at the chosen entry, 0 elsewhere."""
        xp = array_namespace(grad)
        chosen = xp.arange(self._row_length()) == self.chosen
        rows = xp.where(chosen, grad.reshape(self.chosen.shape), 0).astype(grad.dtype, copy=False)
        return rows.reshape(self.shape) if self.axis is None else xp.moveaxis(rows, -1, self.axis)

    def _row_length(self) -> int:
        return math.prod(self.shape) if self.axis is None else self.shape[self.axis]


class Min(Max):
    """y = min x, otherwise as :class:`Max`."""

    largest = False


class LogSumExp(Function):
    """y = ln Σ eˣ over the given axes, without overflow: m + ln Σ eˣ⁻ᵐ with m = max x.

    +∞ where an x is +∞; the gradient then goes to these x alone, in equal parts. -∞ where there is no x. An x of only
    -∞ gives NaN.

    Args:
        axis: one axis, several, or None for all. They are absent from y.
    """

    def forward(self, x: Float[Array, "..."], *, axis: Axis) -> Any:
        xp, axis = array_namespace(x), several_axes(axis)
        some = count_along(x.shape, axis) > 0
        m = x.max(axis=axis, keepdims=True) if some else x.sum(axis=axis, keepdims=True) - math.inf
        with np.errstate(invalid="ignore", divide="ignore"):  # ∞ - ∞, and ln 0 without any x
            e = xp.exp(xp.where(x == math.inf, 0, x - m))
            total = sum_of(e, axis, keepdims=True)
            y = m + xp.log(total)
        self.axis = axis
        self.save(e / total)
        return xp.squeeze(y, axis=axis)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy softmax(x)."""
        (p,) = self.saved
        return p * _repeat(grad, p.shape, self.axis)


def count_along(shape: tuple[int, ...], axis: Axis) -> int:
    """How many entries of an array of this shape one entry of the result is made of."""
    return math.prod([shape[a] for a in _axes(shape, axis)])


def _axes(shape: tuple[int, ...], axis: Axis) -> tuple[SupportsIndex, ...]:
    return tuple(range(len(shape))) if axis is None else axis if isinstance(axis, tuple) else (axis,)


def _repeat(grad: Float[Array, "..."], shape: tuple[int, ...], axis: Axis) -> Float[Array, "..."]:
    """The adjoint of a sum over ``axis``: a read-only view of ``grad`` in the shape that x had."""
    with_ones = list(shape)
    for a in _axes(shape, axis):
        with_ones[a] = 1
    return array_namespace(grad).broadcast_to(grad.reshape(with_ones), shape)


def _lead(rows: Float[Array, "..."], i: int, largest: bool) -> str:
    """By how much the largest, or the smallest, entry of row i leads."""
    row = sorted(rows.reshape(-1, rows.shape[-1])[i].tolist(), reverse=largest)
    which = "largest" if largest else "smallest"
    return (
        f"row {i}: the {which} entry leads by {abs(row[0] - row[1]):.1e}" if len(row) > 1 else f"row {i} has one entry"
    )
