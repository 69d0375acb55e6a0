"""Blocks of work on all cores: a pool of threads, each block run by one thread.

Compiled loops and NumPy's own loops release Python's global lock, so plain threads do. Products run one-threaded, side
by side: measured against two threads on each product this was never slower, for many small experts twice as fast, and
there are no threads of BLAS left that spin between two products while loops want the cores.

How work is cut does not depend on the number of threads, so neither does a single bit of a result.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


def blocks(n: int, size: int) -> list[slice]:
    """0 ... n-1 in slices of ``size``; the last may be shorter."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def run(task: Callable[[Any], object], work: list[Any]) -> None:
    """Call ``task`` on every item; several threads take items as they get free. Errors of a task come through."""
    helpers = min(count(), len(work)) - 1 if len(work) > 1 else 0
    if helpers < 1:
        for item in work:
            task(item)
        return
    items = iter(work)  # next() on a list iterator is atomic
    running = [_pool(os.getpid(), count()).submit(copy_context().run, _drain, task, items) for _ in range(helpers)]
    try:
        _drain(task, items)
    finally:
        for future in running:
            future.result()


def _drain(task: Callable[[Any], object], items: Iterable[Any]) -> None:
    for item in items:
        task(item)


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The helpers of this process; a forked child has none of its parent's threads and makes its own."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="moe_numpy")


def count() -> int:
    """How many threads work: as many as BLAS is set to use, or else as there are cores for this process."""
    if _limits.depth:
        return _limits.threads
    if _limits.libraries:
        return _limits.libraries[0].get_num_threads()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread_products() -> Iterator[None]:
    """Inside the block BLAS uses one thread for each product; afterwards as many as before."""
    _limits.enter()
    try:
        yield
    finally:
        _limits.leave()


class _Limits:
    """The number of threads of BLAS, lowered while at least one caller wants it to be."""

    def __init__(self) -> None:
        found = ThreadpoolController().select(user_api="blas").lib_controllers
        self.libraries: list[Any] = [library for library in found if library.get_num_threads()]
        self.lock = threading.Lock()
        self.depth = 0
        self.threads = 1

    def enter(self) -> None:
        with self.lock:
            if self.depth == 0 and self.libraries:
                self.threads = self.libraries[0].get_num_threads()
                for library in self.libraries:
                    library.set_num_threads(1)
            self.depth += 1

    def leave(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                for library in self.libraries:
                    library.set_num_threads(self.threads)


_limits = _Limits()
