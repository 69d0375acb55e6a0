"""Operators and methods of Tensor: ``a + b`` is ``Add.apply(a, b)``.

They are attached here, so that the engine does not depend on the ops. Their declarations for type checkers
are in ``autodiff/tensor.py``.
"""
# mypy: disable-error-code="method-assign"

from typing import Any

from ..autodiff import Tensor
from .arithmetic import Add, Divide, Exp, Log, Multiply, Negate, Power, Sqrt, Subtract
from .indexing import GetItem
from .matmul import MatMul
from .reductions import Axis, Max, Mean, Sum
from .shape import Reshape, Transpose


def _reshape(self: Tensor, *shape: Any) -> Tensor:
    """``x.reshape(2, 3)`` or ``x.reshape((2, 3))``."""
    return Reshape.apply(self, shape=_unpack(shape))


def _transpose(self: Tensor, *axes: Any) -> Tensor:
    """``x.transpose(1, 0, 2)`` or ``x.transpose((1, 0, 2))``; without axes it reverses them."""
    return Transpose.apply(self, axes=_unpack(axes) or None)


def _unpack(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(numbers[0]) if len(numbers) == 1 and isinstance(numbers[0], tuple | list) else numbers


def _sum(self: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return Sum.apply(self, axis=axis, keepdims=keepdims)


def _mean(self: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return Mean.apply(self, axis=axis, keepdims=keepdims)


def _max(self: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    return Max.apply(self, axis=axis, keepdims=keepdims)


Tensor.__add__ = lambda a, b: Add.apply(a, b)
Tensor.__radd__ = lambda b, a: Add.apply(a, b)
Tensor.__sub__ = lambda a, b: Subtract.apply(a, b)
Tensor.__rsub__ = lambda b, a: Subtract.apply(a, b)
Tensor.__mul__ = lambda a, b: Multiply.apply(a, b)
Tensor.__rmul__ = lambda b, a: Multiply.apply(a, b)
Tensor.__truediv__ = lambda a, b: Divide.apply(a, b)
Tensor.__rtruediv__ = lambda b, a: Divide.apply(a, b)
Tensor.__matmul__ = lambda a, b: MatMul.apply(a, b)
Tensor.__rmatmul__ = lambda b, a: MatMul.apply(a, b)
Tensor.__neg__ = lambda x: Negate.apply(x)
Tensor.__pow__ = lambda x, exponent: Power.apply(x, exponent=exponent)
Tensor.__getitem__ = lambda x, index: GetItem.apply(x, index=index)
Tensor.exp = lambda self: Exp.apply(self)
Tensor.log = lambda self: Log.apply(self)
Tensor.sqrt = lambda self: Sqrt.apply(self)
Tensor.sum = _sum
Tensor.mean = _mean
Tensor.max = _max
Tensor.reshape = _reshape
Tensor.transpose = _transpose
Tensor.T = property(_transpose)  # type: ignore[assignment]
