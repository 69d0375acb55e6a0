"""Exercise 32: positions in queues as a compiled loop. The mistakes are plain Python: the list needs no numba."""

from typing import Any

import numpy as np

from moe_numpy import kernels

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks

EXERCISE = Exercise(
    number=32,
    name="positions_in_numba",
    title="A compiled loop",
    teaches="Some things are simplest as a loop, and compiled the simple loop is also the fast one.",
    difficulty=2,
    minutes=15,
    needs=(22,),
    target="exercises.reference.positions_in_numba:position_by_key",
    preload=("exercises.reference.uncached_numba",),
    time_limit=20.0,
    hints=(
        "Two arrays: one counter per key, and the result. Walk through keys once.",
        "The place of entry n is its key's counter, read before entry n is counted.",
        "seen = np.zeros(num_keys, np.int64); for n in range(len(keys)): position[n] = seen[keys[n]]; "
        "seen[keys[n]] += 1. With @njit above the function.",
    ),
)


def is_compiled(solution: Any, keys: Any, num_keys: int) -> bool:
    """Whether it ran as machine code: numba's dispatcher has a signature outside object mode.

    Raises:
        ValueError: a sort of NumPy was compiled into it.
    """
    solution(keys, num_keys)
    for compiled in getattr(solution, "overloads", {}).values():
        for found in compiled.type_annotation.typemap.values():
            if "sort" in str(getattr(found, "typing_key", "")):
                raise ValueError("it sorts the keys; one pass through them, with a counter for each, is enough")
    return bool(getattr(solution, "nopython_signatures", ()))


def in_any_order(solution: Any, keys: Any, num_keys: int) -> Any:
    """Iterations of a parallel loop may run in any order: where the solution asks for one, they do here."""
    plain = getattr(solution, "py_func", None)
    if plain is None or not solution.targetoptions.get("parallel"):
        return solution(keys, num_keys)
    import numba

    def shuffled(*ends: int) -> Any:
        return sorted(range(*ends), key=lambda i: (i * 7 % 5, -i))

    names, original = plain.__globals__, numba.prange
    replaced = [name for name, value in names.items() if value is original]
    try:
        numba.prange = shuffled  # type: ignore[misc, assignment]
        names.update(dict.fromkeys(replaced, shuffled))
        return plain(keys, num_keys)
    finally:
        numba.prange = original  # type: ignore[misc]
        names.update(dict.fromkeys(replaced, original))


def specification(keys: Any, num_keys: int) -> Any:
    """The library's kernel, which sorts."""
    return kernels.position_by_key(keys, num_keys)


def typical(rng: np.random.Generator) -> list[Case]:
    return [case(rng.integers(0, e, n), e) for n, e in [(12, 4), (30, 3), (9, 16), (1, 1), (40, 7)]]


def extremes(rng: np.random.Generator) -> list[Case]:
    """One queue for all; a queue for each; the last queues unused."""
    return [case(np.full(6, 2), 3), case(rng.permutation(7), 7), case(rng.integers(0, 3, 20), 50)]


def narrow(rng: np.random.Generator) -> list[Case]:
    """Keys of few bits, and queues longer than these can count."""
    few = rng.integers(0, 3, 900)
    return [case(few.astype(t), 3) for t in (np.uint8, np.int32)]


def many_tokens(rng: np.random.Generator) -> list[Case]:
    """Queues of more than 32,767 and 65,535; and as many queues."""
    keys = rng.permutation(70_000)
    return [case((rng.random(70_000) < 0.001).astype(np.int64), 2), case(np.concatenate([keys, keys[::2]]), 70_000)]


def a_million(rng: np.random.Generator) -> list[Case]:
    """Few keys; and all different, so that the last entry of the same key is never found."""
    return [
        case(rng.integers(0, 64, 1_000_000, dtype=np.uint8), 64),
        case(rng.permutation(1_000_000).astype(np.int32), 1_000_000),
    ]


COMPILED = one_by_one(case(np.array([1, 0, 1]), 2))
CHECKS = (
    Check("counts earlier entries of the same key", 4, typical, "one counter per key: read, then count up"),
    Check("one queue, many queues, unused queues", 2, extremes, "num_keys counters, all 0 at first"),
    Check(
        "runs as machine code",
        3,
        COMPILED,
        "put @njit above the function, and use scalars and arrays only",
        run=is_compiled,
        second_oracle=False,
    ),
    Check("keys of any integer type", 1, narrow, "int64 counters, whatever the keys are"),
    Check("many tokens", 1, many_tokens, "a place, and a key, can be larger than 65,535"),
    Check("no race", 1, typical, "an entry depends on those before it: the loop is not parallel", run=in_any_order),
    Check("one pass through a million keys", 1, a_million, "look at each entry once, with counters", time_limit=15.0),
    *standard_checks(typical, floats=False),
    Check("no entries", 1, one_by_one(case(np.zeros(0, np.int64), 4)), "an empty array"),
    Check("known values", 1, one_by_one(case(np.array([2, 0, 2, 2, 0]), 3)), "0, 0, 1, 2, 1"),
)


def not_compiled(keys: Any, num_keys: int) -> Any:
    """Right, but without njit: Python runs such a loop a hundred times slower."""
    seen = np.zeros(num_keys, np.int64)
    position = np.empty(len(keys), np.int64)
    for n, key in enumerate(keys):
        position[n] = seen[key]
        seen[key] += 1
    return position


def counts_itself(keys: Any, num_keys: int) -> Any:
    """Counts up before it reads: the first in a queue has place 0."""
    return not_compiled(keys, num_keys) + 1


def counts_later_ones(keys: Any, num_keys: int) -> Any:
    """Walks backwards: it counts the later entries."""
    return not_compiled(keys[::-1], num_keys)[::-1].copy()


def length_of_the_queue(keys: Any, num_keys: int) -> Any:
    """Counts the whole queue of each entry, earlier and later ones."""
    return np.bincount(keys, minlength=num_keys)[keys]


def one_queue_for_all(keys: Any, num_keys: int) -> Any:
    """One counter for all queues. Every key needs its own."""
    return np.arange(len(keys))


def resets_at_each_change(keys: Any, num_keys: int) -> Any:
    """Starts again at 0 when the key changes: that is right only for sorted keys."""
    position = np.zeros(len(keys), np.int64)
    for n in range(1, len(keys)):
        position[n] = position[n - 1] + 1 if keys[n] == keys[n - 1] else 0
    return position


def in_the_order_of_groups(keys: Any, num_keys: int) -> Any:
    """Puts the places in sorted order, one queue after the other. Entry n must be that of keys[n]."""
    return not_compiled(np.sort(keys), num_keys)


def returns_the_counts(keys: Any, num_keys: int) -> Any:
    """Returns the counters: how long each queue is at the end."""
    return np.bincount(keys, minlength=num_keys)


def writes_over_the_keys(keys: Any, num_keys: int) -> Any:
    """Writes the places into `keys`, which belong to the caller."""
    keys[:] = not_compiled(keys.copy(), num_keys)
    return keys


def counts_in_eight_bits(keys: Any, num_keys: int) -> Any:
    """Counters of uint8: the 256th in a queue is the first again. Count in int64."""
    return not_compiled(keys, num_keys) % 256


def counts_in_sixteen_bits(keys: Any, num_keys: int) -> Any:
    """Counters of int16: after 32,767 come negative places. Count in int64."""
    return not_compiled(keys, num_keys).astype(np.int16).astype(np.int64)


def counts_in_sixteen_bits_without_sign(keys: Any, num_keys: int) -> Any:
    """Counters of uint16: the 65,537th in a queue is the first again. Count in int64."""
    return not_compiled(keys, num_keys) % 65_536


def as_many_queues_as_eight_bits_number(keys: Any, num_keys: int) -> Any:
    """A fixed number of counters: keys 0 and 256 then share one. There are num_keys."""
    return not_compiled(keys % 256, 256)


def places_in_the_type_of_the_keys(keys: Any, num_keys: int) -> Any:
    """np.empty_like(keys): the keys may be uint8, and the queue longer than 255."""
    return not_compiled(keys, num_keys).astype(keys.dtype)


MISTAKES = (
    counts_in_eight_bits,
    counts_in_sixteen_bits,
    counts_in_sixteen_bits_without_sign,
    as_many_queues_as_eight_bits_number,
    places_in_the_type_of_the_keys,
    not_compiled,
    counts_itself,
    counts_later_ones,
    length_of_the_queue,
    one_queue_for_all,
    resets_at_each_change,
    in_the_order_of_groups,
    returns_the_counts,
    writes_over_the_keys,
)
