"""What the engine needs to know about an array: its library, its axes, and whether its entries can have gradients."""

import operator
from typing import Any

import numpy as np

from ..kernels import library_of, to_host

__all__ = [
    "is_finite",
    "is_float",
    "is_plain",
    "library_of",
    "one_axis",
    "plain_numbers",
    "several_axes",
    "sum_of",
    "to_host",
]

_floats: dict[Any, bool] = {}


def is_finite(x: Any) -> bool:
    """Whether no entry is NaN or infinite; for arrays on a GPU this waits."""
    finite = (abs(x) < float("inf")).all()
    return bool(finite if isinstance(finite, np.generic) else to_host(finite))


def sum_of(x: Any, axis: Any, keepdims: bool = False) -> Any:
    """Σ x along axes, in the type of x. Floats narrower than float32 are added in float32 and rounded once."""
    if x.dtype.itemsize < 4 and is_float(x.dtype):
        return x.sum(axis=axis, dtype=np.float32, keepdims=keepdims).astype(x.dtype)
    return x.sum(axis=axis, keepdims=keepdims)


def is_float(dtype: Any) -> bool:
    """Whether entries of this type can have gradients. To NumPy, bfloat16 from ml_dtypes is of kind "V"."""
    known = _floats.get(dtype)
    if known is None:
        known = _floats[dtype] = dtype.kind == "f" or dtype.name == "bfloat16"
    return known


def is_plain(x: Any) -> bool:
    """Whether an array of NumPy is as ops need it: numbers in this machine's byte order, and no more than an array."""
    return type(x) is np.ndarray and x.dtype.kind in "fiub" and x.dtype.isnative


def plain_numbers(x: Any, whose: str) -> Any:
    """An array of NumPy without what ``np.matrix`` adds, in the byte order of this machine.

    TypeError, which says whose it is, for a masked one, and for entries that are not real numbers.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{whose} needs a plain array, got a masked one; use .filled() and pass the mask to the op")
    if x.dtype.kind not in "fiub" and not is_float(x.dtype):
        raise TypeError(f"{whose} needs numbers, got an array of dtype {x.dtype}")
    x = x.view(np.ndarray) if isinstance(x, np.matrix) else x
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def one_axis(axis: Any) -> int:
    """An axis as an int. TypeError for anything but one integer."""
    try:
        return operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be one integer, got {axis!r}") from None


def several_axes(axis: Any) -> int | tuple[int, ...] | None:
    """One axis, several, or None for all. TypeError for anything but integers."""
    try:
        return (
            None if axis is None else tuple(map(operator.index, axis)) if hasattr(axis, "__len__") else one_axis(axis)
        )
    except TypeError:
        raise TypeError(f"axis must be an integer, several or None, got {axis!r}") from None
