"""How fast memory can be read: a sum of integers over far more of it than caches hold."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from moe_numpy import kernels

SIZE = 1 << 30  # bytes


class Memory:
    """Memory to read, and threads that read it.

    Args:
        num_threads: each reads a part of its own.
    """

    def __init__(self, num_threads: int):
        self.parts = np.array_split(np.arange(SIZE // 8), num_threads)  # written to: pages of their own
        self.pool = ThreadPoolExecutor(num_threads)
        self.sums = {"numpy": np.sum} | ({"numba": _compiled_sum()} if kernels.in_use() == "numba" else {})
        for total in self.sums.values():
            total(self.parts[0][:8])  # compiles

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return sum(part.nbytes for part in self.parts)

    def seconds(self) -> float:
        """To read it once, with the faster of NumPy's sum and a compiled loop."""
        return min(self._timed(total) for total in self.sums.values())

    def _timed(self, total: Any) -> float:
        start = time.perf_counter()
        list(self.pool.map(total, self.parts))
        return time.perf_counter() - start


@cache
def _compiled_sum() -> Any:
    import numba

    @numba.njit(nogil=True)
    def total(x):  # type: ignore[no-untyped-def]
        result = 0
        for i in range(len(x)):
            result += x[i]  # integers: LLVM may add in any order, in vectors
        return result

    return total
