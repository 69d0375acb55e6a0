"""Threads that walk programs together: they are handed work once, and wait for one another inside compiled code.

The caller leads and can do everything alone; helpers take pieces of its work when they are there. So nothing waits for
a thread that the system does not run, unless it is in the middle of a piece.
"""

import itertools
import os
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from . import program_loops, threads

_MOST = 256  # walks in which helpers help
_run = itertools.count(1)


class Walkable(NamedTuple):
    """The arrays of a program: instructions and their numbers; who takes and who finished what; blocks."""

    code: Any
    numbers: Any
    counters: Any
    finished: Any
    left: Any
    num_of_block: Any


class Crew:
    """The caller and its helpers, in a ``with`` block.

    Helpers are called for the first run that is worth it, and then help with everything.

    Args:
        shared_from: the least work of a run that is worth it, in multiplications.
    """

    def __init__(self, shared_from: int):
        self._shared_from = shared_from

    def __enter__(self) -> "Crew":
        memory = np.zeros(program_loops.ORDERS // 8 + program_loops.ORDER * _MOST + 8, np.int64)
        self._shared, self._blocks = -(-memory.ctypes.data // 64) * 64, 0
        self._kept: list[Any] = [memory]  # what helpers may look at, even those that come when all is over
        self._leave = weakref.finalize(self, _dismiss, self._shared, memory)
        self._zones, self._helpers = 1, list[Future[None]]()
        return self

    def _call_helpers(self) -> None:
        num_threads = threads.count()
        self._zones = min(num_threads, program_loops.ZONES)
        for _ in range(num_threads - 1):
            self._helpers.append(_pool(os.getpid(), num_threads).submit(_help, self._shared, self._kept))

    @staticmethod
    def compiled(instructions: list[Any]) -> Walkable:
        """From names, numbers, what makes fields, blocks and chains."""
        num, loops = len(instructions), program_loops
        code, numbers = np.zeros((num, loops.FIELDS), np.int64), np.zeros(num)
        num_of_block = np.zeros(instructions[-1].block + 1 if instructions else 0, np.int64)
        in_chain = 0
        for n, each in enumerate(instructions):
            values = getattr(loops.OF, each.name), *each.fields(loops)
            code[n, : len(values)] = values
            code[n, loops.BLOCK], code[n, loops.CHAIN], numbers[n] = each.block, each.chain, each.number
            num_of_block[each.block] += in_chain == 0
            in_chain = max(in_chain, each.chain) - 1
        counters, finished = np.zeros((num, loops.COUNTED), np.int64), np.zeros(num, np.int64)
        return Walkable(code, numbers, counters, finished, num_of_block.copy(), num_of_block)

    def begin(self, program: Walkable, owner: object, work: int) -> int:
        """Begin a run of a program, whose number is returned; ``owner`` has the arrays that it works on."""
        if work >= self._shared_from and not self._helpers and not threads.in_helper():
            self._call_helpers()
        run = next(_run)
        program.counters[...], program.finished[...], program.left[...] = run << 32, 0, program.num_of_block
        self._kept += [program, owner]
        return run

    def walk(self, program: Walkable, run: int, first: int, last: int) -> None:
        """Do the instructions first ... last-1."""
        block = int(program.code[first, program_loops.BLOCK])
        blocks = int(program.code[last - 1, program_loops.BLOCK]) - block + 1
        addresses = [array.ctypes.data for array in program[:5]]
        order = np.array([*addresses, first, last, block, self._blocks, run, self._zones], np.int64)
        program_loops.lead(self._shared, order.ctypes.data, blocks, _MOST)
        self._blocks += blocks

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        for helper in self._helpers:
            helper.cancel()


def is_compiled() -> bool:
    """Whether loops are compiled at all: not with NUMBA_DISABLE_JIT=1."""
    return hasattr(program_loops.walk, "py_func")


def _dismiss(shared: int, memory: Any) -> None:
    program_loops.dismiss(shared)


def _help(shared: int, kept: list[Any]) -> None:
    program_loops.follow(shared, _MOST)


@cache
def _pool(process: int, num_threads: int) -> ThreadPoolExecutor:
    """The helpers of this process, apart from those of kernels, which may be called between two walks."""
    return ThreadPoolExecutor(num_threads - 1, "moe_numpy_crew")
