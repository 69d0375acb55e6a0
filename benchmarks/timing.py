"""Comparable times: candidates in turn, medians."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

_WARM = 0.02  # seconds
_PAUSE = 0.05  # seconds for the previous candidate's threads to fall asleep; OpenBLAS's spin for some 20 ms


def in_turn(
    candidates: Mapping[str, Callable[[], Any]],
    rounds: int,
    budget_s: float,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The median milliseconds of each candidate over up to ``rounds`` rounds; in a round each runs twice or more.

    The runs before its last one, at least 20 ms of them, are not counted: they restore the candidate's own state of
    memory, caches, threads and clocks. The clock runs until ``synchronize()`` returns, which waits for the device.
    After three rounds, no further one begins once the budget is spent.
    """

    def warmed(run: Callable[[], Any]) -> float:
        warm = time.perf_counter() + _WARM
        while True:
            run()
            synchronize()
            if time.perf_counter() >= warm:
                break
        start = time.perf_counter()
        run()
        synchronize()
        return time.perf_counter() - start

    for run in candidates.values():
        run()
    taken = seconds_in_turn({name: partial(warmed, run) for name, run in candidates.items()}, rounds, budget_s)
    return {name: 1e3 * statistics.median(times) for name, times in taken.items()}


def seconds_in_turn(
    candidates: Mapping[str, Callable[[], float]], rounds: int, budget_s: float
) -> dict[str, list[float]]:
    """What each candidate says it took, in up to ``rounds`` rounds; no fourth one begins once the budget is spent."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + budget_s
    enabled = gc.isenabled()
    gc.disable()
    try:
        for done in range(rounds):
            if done >= 3 and time.perf_counter() > end:
                break
            for name, run in candidates.items():
                time.sleep(_PAUSE)
                taken[name].append(run())
            gc.collect()
    finally:
        if enabled:
            gc.enable()
    return taken
