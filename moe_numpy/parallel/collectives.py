"""What ranks do together, made of exchanges.

Sums are added in the order of ranks. So every rank has the same bits, however ranks are connected.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff.arrays import is_float
from ..kernels import to_host
from ..typing import Array, Shaped
from .communicator import Communicator


def shares(n: int, size: int) -> list[slice]:
    """0 ... n-1 in one contiguous part for each rank; where it does not divide, the first ones get one more."""
    ends = np.cumsum([n // size + (r < n % size) for r in range(size)]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def gather_numbers(communicator: Communicator, numbers: Sequence[int], kind: str) -> list[list[int]]:
    """Whole numbers of every rank, equally many, by rank."""
    rows = gather(communicator, np.array([numbers], np.int64), [1] * communicator.size, kind)
    of_ranks: list[list[int]] = rows.tolist()
    return of_ranks


def gather(
    communicator: Communicator, rows: Shaped[Array, "n *rest"], counts: Sequence[int], kind: str
) -> Shaped[Array, "N *rest"]:
    """The rows of all ranks, by rank; ``counts`` says how many each has."""
    everywhere = array_namespace(rows).concat([rows] * communicator.size)
    return communicator.exchange(everywhere, [len(rows)] * communicator.size, counts, kind)


def scatter_sum(
    communicator: Communicator, rows: Shaped[Array, "N *rest"], counts: Sequence[int], kind: str
) -> Shaped[Array, "n *rest"]:
    """Of the sum over ranks of ``rows``, the part of this rank: the gradient of :func:`gather`.

    Args:
        rows: of all ranks, by rank.
        counts: how many belong to each.
    """
    mine = counts[communicator.rank]
    parts = communicator.exchange(rows, counts, [mine] * communicator.size, kind)
    return sum_in_order([parts[r * mine : (r + 1) * mine] for r in range(communicator.size)])


def add_up(communicator: Communicator, arrays: Sequence[Shaped[Array, "..."]], kind: str) -> list[Shaped[Array, "..."]]:
    """The sum over ranks of each array. Each rank adds its part of all, and the parts are gathered: 2 (R-1)/R n numbers
    leave each rank, which is the least possible.
    """
    if communicator.size == 1:
        return list(arrays)
    sums: dict[int, Any] = {}
    for dtype in dict.fromkeys(a.dtype for a in arrays):
        which = [i for i, a in enumerate(arrays) if a.dtype == dtype]
        xp = array_namespace(arrays[which[0]])
        flat = xp.concat([xp.reshape(arrays[i], (-1,)) for i in which])
        counts = [part.stop - part.start for part in shares(len(flat), communicator.size)]
        flat = gather(communicator, scatter_sum(communicator, flat, counts, kind), counts, kind)
        ends = np.cumsum([arrays[i].size for i in which]).tolist()
        for i, start, end in zip(which, [0, *ends], ends, strict=False):
            sums[i] = xp.reshape(flat[start:end], arrays[i].shape)
    return [sums[i] for i in range(len(arrays))]


def require_equal(communicator: Communicator, described: dict[str, Any], kind: str = "settings") -> None:
    """ValueError on every rank, with the entries that differ and where, unless all ranks give the same."""
    text = np.frombuffer(json.dumps(described, sort_keys=True, default=str).encode(), np.uint8)
    counts = [n for (n,) in gather_numbers(communicator, [len(text)], kind)]
    texts = np.split(to_host(gather(communicator, text, counts, kind)), np.cumsum(counts)[:-1])
    theirs = [json.loads(bytes(each)) for each in texts]
    for rank, other in enumerate(theirs):
        for name in theirs[0] | other:
            ours, its = theirs[0].get(name), other.get(name)
            if ours != its:
                raise ValueError(
                    f"rank {rank} has {name} {its!r:.200}, rank 0 has {ours!r:.200}: ranks must not differ"
                )


def sum_in_order(parts: Sequence[Shaped[Array, "..."]]) -> Shaped[Array, "..."]:
    """The sum of arrays, the first ones first. Floats narrower than float32 are added in float32 and rounded once."""
    dtype = parts[0].dtype
    narrow = dtype.itemsize < 4 and is_float(dtype)
    total = parts[0].astype(np.float32) if narrow else parts[0]
    for part in parts[1:]:
        total = total + part
    return total.astype(dtype) if narrow else total
