"""Operators and methods of Tensor: ``a + b`` is ``Add.apply(a, b)``.

They are attached here, so that the engine does not depend on the ops. Their declarations for type checkers
are in ``autodiff/tensor.py``.
"""
# mypy: disable-error-code="method-assign"

from typing import Any, SupportsIndex

import numpy as np

from ..autodiff import Function, Tensor
from ..autodiff.tensor import is_operand
from .arithmetic import Abs, Add, Divide, Exp, Log, Multiply, Negate, Power, Sqrt, Subtract
from .indexing import GetItem
from .matmul import MatMul
from .reductions import Axis, Max, Mean, Min, Sum, count_along
from .shape import Reshape, Transpose


def _reshape(self: Tensor, *shape: Any) -> Tensor:
    """``x.reshape(2, 3)`` or ``x.reshape((2, 3))``."""
    return Reshape.apply(self, shape=_unpack(shape))


def _transpose(self: Tensor, *axes: Any) -> Tensor:
    """``x.transpose(1, 0, 2)`` or ``x.transpose((1, 0, 2))``; without axes it reverses them."""
    return Transpose.apply(self, axes=_unpack(axes) or None)


def _unpack(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(numbers[0]) if len(numbers) == 1 and isinstance(numbers[0], tuple | list | np.ndarray) else numbers


def _power(self: Tensor, exponent: Any) -> Tensor:
    if isinstance(exponent, np.generic):
        exponent = exponent.item()
    if not isinstance(exponent, int | float):
        raise TypeError(
            f"the exponent of a Tensor must be a number, got {type(exponent).__name__}; "
            "for positive x and a Tensor p write (p * x.log()).exp()"
        )
    return Power.apply(self, exponent=exponent)


def _sum(self: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return Sum.apply(self, axis=axis, keepdims=keepdims)


def _mean(self: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return Mean.apply(self, axis=axis, keepdims=keepdims)


def _max(self: Tensor, axis: SupportsIndex | None = None, keepdims: bool = False) -> Tensor:
    return Max.apply(self, axis=axis, keepdims=keepdims)


def _min(self: Tensor, axis: SupportsIndex | None = None, keepdims: bool = False) -> Tensor:
    return Min.apply(self, axis=axis, keepdims=keepdims)


def _var(self: Tensor, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """Σ (x - mean x)² / (n - ddof) over n entries each: by default of the population, as NumPy has it."""
    n = count_along(self.shape, axis)
    if n <= ddof:
        raise ValueError(f"var: expected more than ddof={ddof} entries along axis {axis}, got shape {self.shape}")
    centred = self - self.mean(axis=axis, keepdims=True)
    return (centred * centred).sum(axis=axis, keepdims=keepdims) / (n - ddof)


def _std(self: Tensor, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """√ of the variance. Where all entries are equal it has no derivative: the gradient is NaN."""
    return _var(self, axis, ddof=ddof, keepdims=keepdims).sqrt()


def _operators(function: type[Function]) -> tuple[Any, Any]:
    """``a + b`` with a Tensor on the left, and with one on the right."""

    def left(a: Tensor, b: Any) -> Any:
        return function.apply(a, b) if is_operand(b) else NotImplemented

    def right(b: Tensor, a: Any) -> Any:
        return function.apply(a, b) if is_operand(a) else NotImplemented

    return left, right


Tensor.__add__, Tensor.__radd__ = _operators(Add)
Tensor.__sub__, Tensor.__rsub__ = _operators(Subtract)
Tensor.__mul__, Tensor.__rmul__ = _operators(Multiply)
Tensor.__truediv__, Tensor.__rtruediv__ = _operators(Divide)
Tensor.__matmul__, Tensor.__rmatmul__ = _operators(MatMul)
Tensor.__neg__ = lambda x: Negate.apply(x)
Tensor.__abs__ = lambda x: Abs.apply(x)
Tensor.__pow__ = _power
Tensor.__getitem__ = lambda x, index: GetItem.apply(x, index=index)
Tensor.exp = lambda self: Exp.apply(self)
Tensor.log = lambda self: Log.apply(self)
Tensor.sqrt = lambda self: Sqrt.apply(self)
Tensor.sum = _sum
Tensor.mean = _mean
Tensor.max = _max
Tensor.min = _min
Tensor.var = _var
Tensor.std = _std
Tensor.reshape = _reshape
Tensor.transpose = _transpose
Tensor.T = property(_transpose)  # type: ignore[assignment]
