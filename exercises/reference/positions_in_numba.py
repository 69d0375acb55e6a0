"""Positions in queues as a compiled loop."""

import numpy as np
from numba import njit

from moe_numpy.typing import Array, Int


@njit
def position_by_key(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " N"]:
    """How many earlier entries have the same key: the place in the queue before an expert.

    position[n] = the number of m < n with keys[m] = keys[n], in one pass through ``keys``.

    ``njit`` compiles a plain loop over scalars and arrays for the types that it is first called with. Leave it there:
    whole-array NumPy has to sort for this, a loop has not.

    Args:
        keys: integers ``0 <= key < num_keys``; not to be changed.
        num_keys: how many queues there are.

    Returns:
        int64, or int32, of the shape of ``keys``.
    """
    seen = np.zeros(num_keys, np.int64)
    position = np.empty(len(keys), np.int64)
    for n in range(len(keys)):
        position[n] = seen[keys[n]]
        seen[keys[n]] += 1
    return position
