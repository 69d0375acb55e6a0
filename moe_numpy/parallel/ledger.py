"""Every byte that one rank sends to another, by kind."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..typing import Array, Int
from .tally import Tally


class Ledger:
    """What this rank has sent.

    Args:
        num_ranks: R.

    Attributes:
        sent: for each kind, the bytes to each rank; what stays here is not counted.
        tally: what there was to move.
    """

    def __init__(self, num_ranks: int):
        self.num_ranks = num_ranks
        self.sent: dict[str, Int[Array, " R"]] = {}
        self.tally = Tally()

    def note(self, kind: str, rows: Any, counts: Sequence[int], own: int) -> None:
        """Add one exchange: ``counts[r]`` of the rows go to rank r; ``own`` is the rank that sends."""
        one_row = math.prod(rows.shape[1:]) * rows.dtype.itemsize
        to = self.sent.setdefault(kind, np.zeros(self.num_ranks, np.int64))
        for rank, count in enumerate(counts):
            if rank != own:
                to[rank] += count * one_row
