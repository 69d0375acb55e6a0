"""Blocks of work on all cores: a pool of threads, each block run by one thread.

Compiled loops and NumPy's own release Python's global lock, so plain threads suffice. Matrix multiplications run on one
thread each, side by side. Measured against two threads for each multiplication this was never slower, and twice as fast
for many small experts; and no thread of BLAS spins between two multiplications while loops need the cores.

How work is cut does not depend on the number of threads, and a multiplication never has more than one, so no bit of a
result depends on it.
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
    """Call ``task`` on every item; several threads take items as they become free. Errors of a task come through.

    Inside a task, kernels run on that task's thread alone: helpers that wait for helpers could wait forever.
    """
    helpers = min(count(), len(work)) - 1 if len(work) > 1 and not in_helper() else 0
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
    return ThreadPoolExecutor(threads - 1, "moe_numpy", initializer=lambda: setattr(_here, "helper", True))


def in_helper() -> bool:
    """Whether this thread does a task for another one."""
    return hasattr(_here, "helper")


def count() -> int:
    """How many threads work: as many as BLAS is set to use, or without BLAS the cores of this process."""
    return _limits.threads if _limits.depth else _limits.now()


@contextmanager
def one_thread_products() -> Iterator[None]:
    """Inside the block BLAS uses one thread for each multiplication; afterwards as many as before."""
    _limits.enter()
    try:
        yield
    finally:
        _limits.leave()


class _Limits:
    """The number of threads of BLAS, lowered while at least one caller is inside."""

    def __init__(self) -> None:
        found = ThreadpoolController().select(user_api="blas").lib_controllers
        # SciPy may bring a library of its own; the first one counts.
        found.sort(key=lambda library: "numpy" not in library.filepath)
        self.libraries: list[Any] = [library for library in found if library.get_num_threads()]
        self.lock = threading.Lock()
        self.depth = 0
        self.mine = threading.local()  # the part of depth that belongs to this thread
        self.threads = 1
        self.before: list[int] = []

    def now(self) -> int:
        if self.libraries:
            return self.libraries[0].get_num_threads()
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def enter(self) -> None:
        with self.lock:
            if self.depth == 0:
                self.threads = self.now()
                self.before = [library.get_num_threads() for library in self.libraries]
                for library in self.libraries:
                    _set_threads(library, 1)
            self.depth += 1
            self.mine.depth = getattr(self.mine, "depth", 0) + 1

    def leave(self) -> None:
        with self.lock:
            self.depth -= 1
            self.mine.depth -= 1
            if self.depth == 0:
                self._restore()

    def after_fork(self) -> None:
        """In a forked child only the thread that forked goes on: the blocks of all others will not end here."""
        self.lock = threading.Lock()
        before, self.depth = self.depth, getattr(self.mine, "depth", 0)
        if before and not self.depth:
            self._restore()

    def _restore(self) -> None:
        for library, threads in zip(self.libraries, self.before, strict=True):
            _set_threads(library, threads)


def _set_threads(library: Any, threads: int) -> None:
    """Also in a thread that is not the first to ask, to which threadpoolctl 3.8 would not listen; here all agree."""
    let_go = getattr(library, "clear_controlling_thread", None)
    if let_go is not None:
        let_go(force=True)
    library.set_num_threads(threads)


_here = threading.local()
_limits = _Limits()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_limits.after_fork)
