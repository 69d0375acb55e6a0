"""Threads that walk programs together: they are handed work once, and wait for one another inside compiled code."""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np

from . import program_loops, threads

_one = threading.Lock()


def is_compiled() -> bool:
    """Whether loops are compiled at all: not with NUMBA_DISABLE_JIT=1."""
    return hasattr(program_loops.walk, "py_func")


class Crew:
    """The caller and its helpers, in a ``with`` block. One crew at a time has helpers; others work alone."""

    def __enter__(self) -> "Crew":
        self._lock = _one
        self._helped = not threads.in_helper() and threads.count() > 1 and self._lock.acquire(blocking=False)
        self._num_threads = threads.count() if self._helped else 1
        self._met = 0
        memory = np.zeros(program_loops.SHARED + 64, np.uint8)
        self._memory, self._shared = memory, (memory.ctypes.data + 63) // 64 * 64
        self._helpers: list[Future[Any]] = []
        try:
            for _ in range(self._num_threads - 1):
                pool = _pool(os.getpid(), self._num_threads)
                self._helpers.append(pool.submit(program_loops.follow, self._shared, self._num_threads))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    @staticmethod
    def compiled(instructions: list[Any]) -> tuple[Any, Any, Any]:
        """Names, numbers and what makes the fields of instructions, as arrays that threads walk."""
        code = np.zeros((len(instructions), program_loops.FIELDS), np.int64)
        for row, (name, _, fields) in zip(code, instructions, strict=True):
            values = getattr(program_loops.OF, name), *fields(program_loops)
            row[: len(values)] = values
        numbers = np.array([number for _, number, _ in instructions])
        return code, numbers, np.zeros(len(instructions), np.int64)

    def walk(self, code: int, numbers: int, counters: int, first: int, last: int) -> None:
        """Do the instructions first ... last-1 of a program, whose arrays are at these addresses."""
        of = code, numbers, counters, first, last
        self._met = program_loops.lead(self._shared, *of, self._num_threads, self._met)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            program_loops.dismiss(self._shared)
            for helper in self._helpers:
                helper.result()
        finally:
            if self._helped:
                self._lock.release()


@cache
def _pool(process: int, num_threads: int) -> ThreadPoolExecutor:
    """The helpers of this process, apart from those of kernels, which may be called between two walks."""
    return ThreadPoolExecutor(num_threads - 1, "moe_numpy_crew")


def _renew() -> None:
    """In a forked child no other thread goes on: a lock that one of them held would stay locked."""
    global _one
    _one = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
