"""Sorting, counting and choosing: kernels that return integers and have no derivative.

Shapes: T tokens, E experts, k experts per token, N assignments. Keys are integers ``0 <= key < num_keys``. The compiled
loops answer a wrong key with an IndexError; the definitions do what NumPy does.
"""

import numpy as np

from ..typing import Array, Float, Int
from .kernel import kernel


@kernel
def top_k(scores: Float[Array, "T E"], k: int) -> Int[Array, "T k"]:
    """The k largest entries of each row, largest first. Ties go to the lowest index; NaN comes last."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@kernel
def tokens_and_ranks(chosen: Int[Array, "T k"]) -> tuple[Int[Array, " N"], Int[Array, " N"]]:
    """The row and the column of each of the N = T·k entries: 0, 0, 1, 1, 2, 2, ... and 0, 1, 0, 1, 0, 1, ..."""
    num_tokens, k = chosen.shape
    return np.repeat(np.arange(num_tokens), k), np.tile(np.arange(k), num_tokens)


@kernel
def stable_order(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " N"]:
    """The permutation that sorts the keys and keeps equal ones in order.

    ``keys[order]`` is sorted: ``order[n]`` is the place in ``keys`` of the n-th smallest. N may be 100,000.
    """
    return np.argsort(keys, kind="stable")


@kernel
def sort_by_key(keys: Int[Array, " N"], num_keys: int) -> tuple[Int[Array, " N"], Int[Array, " K1"]]:
    """:func:`stable_order`, and where the entries with each key begin in it: num_keys + 1 offsets, the last one N."""
    return np.argsort(keys, kind="stable"), offsets_of.definition(np.bincount(keys, minlength=num_keys))


@kernel
def count(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " num_keys"]:
    """How often each key occurs."""
    return np.bincount(keys, minlength=num_keys)


@kernel
def offsets_of(counts: Int[Array, " E"]) -> Int[Array, " E1"]:
    """Where the entries of each key begin and end: 0, c₀, c₀+c₁, ..."""
    return np.concatenate([np.zeros(1, counts.dtype), np.cumsum(counts)])


@kernel
def position_by_key(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " N"]:
    """How many earlier entries have the same key: the place in the queue before an expert.

    Keys 2, 0, 2, 2 have the positions 0, 0, 1, 2. N may be 100,000.
    """
    order = np.argsort(keys, kind="stable")
    start = offsets_of.definition(np.bincount(keys, minlength=num_keys))
    position = np.empty(len(keys), np.int64)
    position[order] = np.arange(len(keys)) - start[keys[order]]
    return position
