"""What ranks do together, made of exchanges.

Sums are added in the order of ranks. So every rank has the same bits, however ranks are connected.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def gather_texts(communicator: Communicator, text: str, kind: str) -> list[str]:
    """A text of every rank, by rank."""
    code = np.frombuffer(text.encode(), np.uint8)
    communicator.ledger.tally.add("told", {"kind": kind}, numbers=1, text=len(code))
    counts = [n for (n,) in gather_numbers(communicator, [len(code)], kind)]
    parts = np.split(to_host(gather(communicator, code, counts, kind)), np.cumsum(counts)[:-1])
    return [bytes(part).decode() for part in parts]


def require_equal(communicator: Communicator, described: Mapping[str, Any], kind: str = "settings") -> None:
    """ValueError on every rank, with each entry that differs and who has what, unless all ranks give the same."""
    text = json.dumps(described, sort_keys=True, default=str)
    theirs = [json.loads(each) for each in gather_texts(communicator, text, kind)]
    differing = []
    for name in dict.fromkeys(name for entries in theirs for name in entries):
        ranks_with: dict[str, list[int]] = {}
        for rank, entries in enumerate(theirs):
            value = f"{entries[name]!r:.200}" if name in entries else "not there"
            ranks_with.setdefault(value, []).append(rank)
        if len(ranks_with) > 1:
            differing.append(f"{name} is " + ", ".join(f"{v} on {_listed(ranks)}" for v, ranks in ranks_with.items()))
    if differing:
        raise ValueError(f"ranks must not differ: {'; '.join(differing)}")


@contextmanager
def failing_together(communicator: Communicator, kind: str) -> Iterator[None]:
    """An OSError inside the block on one rank is raised on all; all ranks leave the block together."""
    own: OSError | None = None
    try:
        yield
    except OSError as error:
        own = error
    described = "" if own is None else json.dumps([own.errno, own.strerror or str(own), own.filename], default=str)
    failed = [each for each in gather_texts(communicator, described, kind) if each]
    if own is not None:
        raise own
    if failed:
        raise OSError(*json.loads(failed[0]))


def _listed(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def sum_in_order(parts: Sequence[Shaped[Array, "..."]]) -> Shaped[Array, "..."]:
    """The sum of arrays, the first ones first. Floats narrower than float32 are added in float32 and rounded once."""
    dtype = parts[0].dtype
    narrow = dtype.itemsize < 4 and is_float(dtype)
    total = parts[0].astype(np.float32) if narrow else parts[0]
    for part in parts[1:]:
        total = total + part
    return total.astype(dtype) if narrow else total
