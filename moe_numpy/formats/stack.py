"""Matrices of one format and shape as arrays with a leading axis: the experts of a layer."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..kernels import kernel
from ..typing import Array, Float, Int
from .matrix import Matrix, Operands, check_width, weight_product


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
    def operands(self) -> Operands:
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
        check_width(x, self.shape)
        if experts.shape != (len(x),):
            raise ValueError(f"expected one expert for each of {len(x)} rows, got {experts.shape}")
        return weight_product_of_experts(x, self, experts)

    def rows_in_groups(self, x: Float[Array, "N in"], offsets: Int[Array, " E1"]) -> Float[Array, "N out"]:
        """y_n = W_e x_n for the rows n = offsets[e] ... offsets[e+1]-1; 0 after the last offset.

        Raises:
            ValueError: x has another width, or offsets are not E + 1.
            IndexError: offsets do not ascend from 0 to at most N.
        """
        check_width(x, self.shape)
        if offsets.shape != (len(self) + 1,):
            raise ValueError(f"expected {len(self) + 1} offsets for {len(self)} matrices, got {offsets.shape}")
        return grouped_weight_product(x, self, offsets)
