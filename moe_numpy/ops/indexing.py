"""Picking and placing entries by index. An entry that is picked twice gets the sum of both gradients."""

import math
from types import EllipsisType
from typing import Any, SupportsIndex

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Integer

from ..autodiff import Function, Tensor
from ..kernels import add_along_rows, add_rows
from ..typing import Array, Float, Int, Shaped


class GetItem(Function):
    """y = x[index], with all of NumPy's indexing.

    Args:
        index: integers, slices, ``...``, None, integer or boolean arrays, Tensors or lists, or a tuple of these.
    """

    def forward(self, x: Shaped[Array, "..."], *, index: Any) -> Shaped[Array, "..."]:
        parts = tuple([_plain(part, x) for part in (index if isinstance(index, tuple) else (index,))])
        self.shape, self.is_tuple = x.shape, isinstance(index, tuple)
        self.save(*parts)
        return x[parts if self.is_tuple else parts[0]]

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = 0, then dx[index] += dy."""
        index: Any = self.saved if self.is_tuple else self.saved[0]
        if _kind(index) in ("i", "u"):
            length = self.shape[0]
            ids = index.astype(int) % length  # negative ones count from the end
            rows = grad.reshape(ids.size, math.prod(self.shape[1:]))
            return add_rows(rows, ids.reshape(-1), length).reshape(self.shape)
        xp = array_namespace(grad)
        dx = xp.zeros(self.shape, dtype=grad.dtype)
        if _picks_once(index):
            dx[index] = grad
        else:
            xp.add.at(dx, index, grad)
        return dx


class TakeAlongAxis(Function):
    """y[..., j, ...] = x[..., indices[..., j, ...], ...]: other entries from each row along an axis.

    x and the indices broadcast along the other axes.

    Args:
        axis: the axis of x that the indices count along.
    """

    def forward(
        self, x: Shaped[Array, "..."], indices: Integer[Array, "..."], *, axis: SupportsIndex
    ) -> Shaped[Array, "..."]:
        self.length, self.axis = x.shape[axis], axis
        self.save(indices)
        return array_namespace(x, indices).take_along_axis(x, indices, axis=axis)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = 0, then dx[..., indices, ...] += dy."""
        (indices,) = self.saved
        xp = array_namespace(grad)
        along = xp.moveaxis(grad, self.axis, -1)
        rows = along.reshape(math.prod(along.shape[:-1]), along.shape[-1])
        columns = xp.moveaxis(xp.broadcast_to(indices, grad.shape), self.axis, -1).reshape(rows.shape)
        dx = add_along_rows(rows, columns, self.length)
        return xp.moveaxis(dx.reshape(*along.shape[:-1], self.length), -1, self.axis), None


class FillPlaces(Function):
    """buffer[place_n] = r_n: rows into a larger buffer; unused places stay zero."""

    def forward(self, r: Float[Array, "N d"], place: Int[Array, " N"], *, num_places: int) -> Float[Array, "P d"]:
        """Scatter; no place is taken twice."""
        self.save(place)
        b = array_namespace(r).zeros((num_places, r.shape[1]), dtype=r.dtype)
        b[place] = r
        return b

    def backward(self, grad: Float[Array, "P d"]) -> tuple[Any, None]:
        """dr_n = dbuffer[place_n]."""
        (place,) = self.saved
        return grad[place], None


def _plain(part: Any, x: Shaped[Array, "..."]) -> Any:
    """Part of an index as the arrays understand it: no Tensors, lists or NumPy scalars."""
    if isinstance(part, Tensor):
        return part.data
    if isinstance(part, list | tuple | range):
        part = np.asarray(part)
        return array_namespace(x).asarray(part if part.size else part.astype(int))
    return part.item() if isinstance(part, np.generic) else part


def _kind(index: Any) -> str | None:
    """The kind of dtype where the index is one array: "i", "u" or "b"."""
    return index.dtype.kind if hasattr(index, "dtype") else None


def _picks_once(index: Any) -> bool:
    """Whether no entry can be picked twice: slices and integers cannot, nor can a boolean mask alone."""
    parts = index if isinstance(index, tuple) else (index,)
    basic = all(part is None or isinstance(part, int | slice | EllipsisType) for part in parts)
    return basic or _kind(index) == "b"
