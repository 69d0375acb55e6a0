"""A weight matrix in some format, and a stack of them. What is built on them asks for products and knows no format.

    y_n = W x_n        W [out, in], x [N, in], y [N, out]

Each row is computed as if it were alone: its bits do not depend on which rows share the call, nor on the number of
threads. The compiled loop adds in one fixed order; the definition multiplies row by row.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from ..kernels import kernel
from ..typing import Array, Float, Int


@kernel
def weight_product(x: Float[Array, "N in"], matrix: Any) -> Float[Array, "N out"]:
    """y_n = W x_n with W dequantised, each row alone. ``matrix`` is a :class:`Matrix`."""
    weights, y = matrix.dequantise(_wide(x)), array_namespace(x).empty((len(x), matrix.shape[0]), dtype=x.dtype)
    for n, row in enumerate(x.astype(_wide(x), copy=False)):
        y[n] = weights @ row
    return y


@kernel
def weight_product_of_experts(x: Float[Array, "N in"], stack: Any, experts: Int[Array, " N"]) -> Float[Array, "N out"]:
    """y_n = W_{e_n} x_n, each row alone, with the matrix e_n = experts[n] of a :class:`Stack`."""
    y = array_namespace(x).empty((len(x), stack.shape[1]), dtype=x.dtype)
    for n, expert in enumerate(experts.tolist()):
        y[n] = weight_product.definition(x[n : n + 1], stack[expert])[0]
    return y


@kernel
def grouped_weight_product(x: Float[Array, "N in"], stack: Any, offsets: Int[Array, " E1"]) -> Float[Array, "N out"]:
    """y_n = W_e x_n for the rows n = offsets[e] ... offsets[e+1]-1, each row alone; 0 after the last offset."""
    y = array_namespace(x).zeros((len(x), stack.shape[1]), dtype=x.dtype)
    bounds = offsets.tolist()
    for e in range(len(stack)):
        own = slice(bounds[e], bounds[e + 1])
        if own.start < own.stop:
            y[own] = weight_product.definition(x[own], stack[e])
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
        _check_width(x, self.shape)
        return weight_product(x, self)

    @classmethod
    @abstractmethod
    def encode(cls, weights: Float[Array, "*batch out in"], **settings: Any) -> dict[str, Array]:
        """The arrays that store these weights, which are finite float32; leading axes stay."""


@dataclass(frozen=True, eq=False)
class Stack:
    """E matrices of one format and shape: arrays with a leading axis. ``stack[e]`` is a matrix without a copy.

    Args:
        kind: the class of the matrices.
        arrays: as those of ``kind``, each with a leading axis.
        settings: further arguments of ``kind``.

    Raises:
        ValueError: the arrays have no leading axis in common, or do not fit ``kind``.
    """

    kind: type[Matrix]
    arrays: dict[str, Array]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: array.shape[:1] for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1 or () in lengths.values() or (0,) in lengths.values():
            raise ValueError(f"the arrays of a stack need a leading axis of one length above 0, got {lengths}")
        self[0]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, expert: int) -> Matrix:
        return self.kind(**{name: array[expert] for name, array in self.arrays.items()}, **self.settings)

    @property
    def format(self) -> str:
        """The name of the format."""
        return self.kind.format

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, out, in)."""
        return len(self), *self[0].shape

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @cached_property
    def operands(self) -> "Operands":
        """Its arrays as compiled loops read them."""
        return self.kind.operands_of(self.arrays, **self[0].settings)

    def dequantise(self, dtype: np.typing.DTypeLike = np.float32) -> Float[Array, "E out in"]:
        """The weights in float32 or float64."""
        weights = array_namespace(*self.arrays.values()).empty(self.shape, dtype=dtype)
        for e in range(len(self)):
            weights[e] = self[e].dequantise(dtype)
        return weights

    def rows_by_experts(self, x: Float[Array, "N in"], experts: Int[Array, " N"]) -> Float[Array, "N out"]:
        """y_n = W_{e_n} x_n with e_n = experts[n]: for few rows, which need no sorting.

        Raises:
            ValueError: x has another width, or there is not one expert for each row.
            IndexError: an expert is not 0 ... E-1.
        """
        _check_width(x, self.shape)
        if experts.shape != (len(x),):
            raise ValueError(f"expected one expert for each of {len(x)} rows, got {experts.shape}")
        return weight_product_of_experts(x, self, experts)

    def rows_in_groups(self, x: Float[Array, "N in"], offsets: Int[Array, " E1"]) -> Float[Array, "N out"]:
        """y_n = W_e x_n for the rows n = offsets[e] ... offsets[e+1]-1; 0 after the last offset.

        Raises:
            ValueError: x has another width, or offsets are not E + 1.
            IndexError: offsets do not ascend from 0 to at most N.
        """
        _check_width(x, self.shape)
        if offsets.shape != (len(self) + 1,):
            raise ValueError(f"expected {len(self) + 1} offsets for {len(self)} matrices, got {offsets.shape}")
        return grouped_weight_product(x, self, offsets)


def _check_width(x: Array, shape: tuple[int, ...]) -> None:
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
