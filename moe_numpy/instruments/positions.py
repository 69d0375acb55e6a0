"""Positions in groups that double in size, since most of what a position does happens near the start."""

import numpy as np

from ..typing import Array, Int


def position_groups(position: Int[Array, " N"]) -> tuple[Int[Array, " N"], list[str]]:
    """The group of each position and the names of the groups: 0, 1, 2-3, 4-7, 8-15, ..."""
    group = np.frexp(position.astype(np.float64))[1].astype(np.int64)  # the number of binary digits
    names = ["0", "1", *(f"{2**g}-{2 ** (g + 1) - 1}" for g in range(1, int(group.max(initial=0))))]
    return group, names[: int(group.max(initial=0)) + 1]
