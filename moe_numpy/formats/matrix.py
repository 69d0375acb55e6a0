"""A weight matrix in some format. What is built on it asks for products and knows no format.

    y_n = W x_n        W [out, in], x [N, in], y [N, out]

Each row is computed as if it were alone: its bits do not depend on which rows share the call, nor on the number of
threads. The compiled loop adds in one fixed order; the definition multiplies row by row.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from ..kernels import kernel
from ..typing import Array, Float


@kernel
def weight_product(x: Float[Array, "N in"], matrix: Any) -> Float[Array, "N out"]:
    """y_n = W x_n, each row alone: its bits do not depend on which rows share the call, nor on their number or order.

    A matrix product of all rows at once adds in an order that depends on how many there are, so that a text would
    depend on who else is served. W is ``matrix.dequantise(dtype)``, and is computed in the type of x, at least float32.

    Args:
        x: rows; the result has their type.
        matrix: a :class:`Matrix`, of shape ``matrix.shape``, (out, in).
    """
    weights, y = matrix.dequantise(_wide(x)), array_namespace(x).empty((len(x), matrix.shape[0]), dtype=x.dtype)
    for n, row in enumerate(x.astype(_wide(x), copy=False)):
        y[n] = weights @ row
    return y


def _wide(x: Array) -> np.dtype:
    """The type in which products are computed, at least float32."""
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)


class Operands(NamedTuple):
    """What compiled loops read.

    Args:
        codes: [..., out, ...], row after row.
        scales: [..., rows of scales, ceil(in / 32)].
        scale_rows: how many rows of weights have a row of scales in common.
        compiled: False where no loop reads such scales.
    """

    codes: Array
    scales: Array | None = None
    scale_rows: int = 1
    compiled: bool = True


class Matrix(ABC):
    """Weights [out, in] as they are stored. Arrays are views of the caller's, also of read-only memory maps."""

    format: ClassVar[str]
    even_first: ClassVar[bool] = False  # of each 32 weights compiled loops meet the even ones first

    @property
    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """What is stored, by name: the arguments of the class."""

    @property
    def settings(self) -> dict[str, Any]:
        """Its further arguments."""
        return {}

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @cached_property
    def operands(self) -> "Operands":
        """Its arrays as compiled loops read them."""
        return self.operands_of(self.arrays, **self.settings)

    @classmethod
    def operands_of(cls, arrays: dict[str, Array], **settings: Any) -> "Operands":
        """The same of arrays that may have a leading axis."""
        codes, *scales = arrays.values()
        return Operands(codes, *(scales or [None]))

    def rows(self, start: int, stop: int) -> "Matrix":
        """The rows start ... stop-1: a view."""
        return type(self)(**{name: array[start:stop] for name, array in self.arrays.items()}, **self.settings)

    @abstractmethod
    def dequantise(self, dtype: np.typing.DTypeLike = np.float32) -> Float[Array, "out in"]:
        """The weights in float32 or float64."""

    def product(self, x: Float[Array, "N in"]) -> Float[Array, "N out"]:
        """y_n = W x_n.

        Raises:
            ValueError: x has another width.
        """
        check_width(x, self.shape)
        return weight_product(x, self)

    @classmethod
    @abstractmethod
    def encode(cls, weights: Float[Array, "*batch out in"], **settings: Any) -> dict[str, Array]:
        """The arrays that store these weights, which are finite float32; leading axes stay."""


def check_width(x: Array, shape: tuple[int, ...]) -> None:
    """ValueError unless x are rows that such weights can be multiplied by."""
    if x.ndim != 2 or x.shape[1] != shape[-1]:
        raise ValueError(f"weights {shape} need rows [N, {shape[-1]}], got {x.shape}")


def checked(name: str, array: Array, dtype: np.typing.DTypeLike, axes: int) -> None:
    """What matrices expect of their arrays.

    Raises:
        ValueError: another type or number of axes, or the entries of a row do not lie side by side.
    """
    if array.dtype != dtype or array.ndim != axes:
        raise ValueError(f"{name} must be {np.dtype(dtype)} with {axes} axes, got {array.dtype} {array.shape}")
    if array.size and not array[0].flags.c_contiguous:
        raise ValueError(f"the {name} of a row must lie side by side; np.ascontiguousarray copies them so")
