"""Recycled memory for large results.

A fresh array of some megabytes costs more than the loop that fills it: the system hands out zeroed pages, one page
fault each. :func:`empty` reuses the memory of arrays that are no longer referenced. An array and all its views hold on
to its memory, so nothing that is still reachable is ever overwritten.
"""

from collections import defaultdict
from typing import Any

import numpy as np

SMALLEST = 1 << 18  # bytes; below it, malloc recycles memory itself
LARGEST_IDLE = 1 << 30  # bytes kept for later, at most
_ALIGNMENT = 64

# By size; append and pop are atomic. None when Python exits: it clears names with an underscore first.
_idle: defaultdict[int, list[Any]] = defaultdict(list)


class _Lease:
    """Memory that returns to the stock when the last array that uses it is gone."""

    __slots__ = ("__array_interface__", "block")

    def __init__(self, block: Any, shape: tuple[int, ...], dtype: Any):
        self.block = block
        address = -(-block.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        self.__array_interface__ = {"shape": shape, "typestr": dtype.str, "data": (address, False), "version": 3}

    def __del__(self) -> None:
        if _idle is not None and idle_bytes() + self.block.nbytes <= LARGEST_IDLE:
            _idle[self.block.nbytes].append(self.block)


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array with arbitrary content, as from ``np.empty``."""
    dtype = np.dtype(dtype)
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size < SMALLEST:
        return np.empty(shape, dtype)
    size = _rounded(size)
    try:
        block = _idle[size].pop()
    except IndexError:
        block = np.empty(size, np.uint8)
    return np.asarray(_Lease(block, shape, dtype))


def idle_bytes() -> int:
    """Memory that waits for reuse."""
    return sum(size * len(stock) for size, stock in list(_idle.items()))


def release() -> None:
    """Give idle memory back to the system."""
    _idle.clear()


def _rounded(size: int) -> int:
    """Up to one of eight sizes between two powers of two, so that arrays of similar sizes share memory."""
    step = 1 << max(size.bit_length() - 4, 0)
    return -(-(size + _ALIGNMENT) // step) * step
