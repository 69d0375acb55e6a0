"""Independent work over all cores, in a process each: for Python code, which threads do not speed up."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


def over_all_cores(f: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """``map(f, items)``: the results in order, each as soon as it and those before it are there.

    ``f``, items and results are pickled. Whoever stops early, by Ctrl-C too, stops the processes.
    """
    with ProcessPoolExecutor(min(len(items), _cores()), mp_context=multiprocessing.get_context("spawn")) as pool:
        with _interrupts_ignored():
            futures = [pool.submit(f, item) for item in items]
        try:
            yield from (future.result() for future in futures)
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that start inside ignore Ctrl-C for good: it is for this one, which ends them."""
    if threading.current_thread() is not threading.main_thread():  # the others may not say what a signal does
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
