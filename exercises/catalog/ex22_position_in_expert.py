"""Exercise 22: the place of each assignment in the queue before its expert."""

from typing import Any

import numpy as np

from moe_numpy.kernels import position_by_key

from ..exercise import Case, Check, Exercise, case, one_by_one, strided

EXERCISE = Exercise(
    number=22,
    name="position_in_expert",
    title="Position in the expert's queue",
    teaches="Who comes first before a full expert: a running count for each expert, without a loop over tokens.",
    difficulty=2,
    minutes=20,
    needs=(16,),
    target="moe_numpy.kernels.sorting:position_by_key",
    hints=(
        "Two ways lead there. A table with a row for each entry and a column for each key, summed downwards; or a "
        "stable sort, after which each expert's entries stand side by side.",
        "By sorting: in sorted order entry number m has position m minus the place where its key's group begins. "
        "The groups begin at 0, c₀, c₀+c₁, ... Then each number goes back to where its entry stands in `keys`.",
        'order = np.argsort(keys, kind="stable"); start = np.cumsum(counts) - counts with counts from np.bincount; '
        "position[order] = np.arange(N) - start[keys[order]].",
    ),
)


def specification(keys: Any, num_keys: int) -> Any:
    """Walk along the keys and count."""
    seen = [0] * num_keys
    position = np.zeros(len(keys), np.int64)
    for n, key in enumerate(keys.tolist()):
        position[n] = seen[key]
        seen[key] += 1
    return position


def typical(rng: np.random.Generator) -> list[Case]:
    """Experts in any order."""
    return [case(rng.integers(0, e, n), e) for n, e in [(7, 3), (20, 4), (50, 8), (5, 1), (1, 1)]]


def distinct(rng: np.random.Generator) -> list[Case]:
    """Each expert once: everybody is first."""
    return [case(rng.permutation(6), 6)]


def crowded(rng: np.random.Generator) -> list[Case]:
    """All at one expert, some experts without anybody, more keys than entries."""
    return [case(np.full(40, 2), 5), case(rng.choice([1, 3], 20), 5), case(rng.integers(0, 40_000, 12), 40_000)]


def empty(rng: np.random.Generator) -> list[Case]:
    """Nobody."""
    return [case(np.zeros(0, np.int64), 4)]


# Wrong solutions


def counts_itself(keys: Any, num_keys: int) -> Any:
    """Begins with 1: the first in the queue has nobody before it, its place is 0. A capacity of C holds 0 to C - 1."""
    return position_by_key(keys, num_keys) + 1


def counts_everybody(keys: Any, num_keys: int) -> Any:
    """Says how many are in the queue, not how many are in front."""
    return np.bincount(keys, minlength=num_keys)[keys] - 1


def counts_from_the_end(keys: Any, num_keys: int) -> Any:
    """Counts those behind: then the earliest tokens would be dropped first."""
    return position_by_key(keys[::-1], num_keys)[::-1]


def place_in_sorted_order(keys: Any, num_keys: int) -> Any:
    """The place among all entries sorted by expert. Take off where the expert's group begins."""
    return np.argsort(np.argsort(keys, kind="stable"), kind="stable")


def positions_in_sorted_order(keys: Any, num_keys: int) -> Any:
    """The right numbers in the order of experts. They must go back to where their entries stand in `keys`."""
    order = np.argsort(keys, kind="stable")
    return position_by_key(keys, num_keys)[order]


def applies_the_order_twice(keys: Any, num_keys: int) -> Any:
    """Goes back with values[order] instead of y[order] = values: that sorts once more. It needs the inverse."""
    order = np.argsort(keys, kind="stable")
    return position_by_key(keys, num_keys)[order][order]


def restarts_at_each_run(keys: Any, num_keys: int) -> Any:
    """Counts neighbours with the same key only. A queue goes on after a token for another expert."""
    position = np.zeros(len(keys), np.int64)
    for n in range(1, len(keys)):
        if keys[n] == keys[n - 1]:
            position[n] = position[n - 1] + 1
    return position


def unstable_sort(keys: Any, num_keys: int) -> Any:
    """Sorts with the default of argsort, which may exchange equal keys: a later token gets in front of an earlier."""
    order = np.argsort(keys)
    counts = np.bincount(keys, minlength=num_keys)
    start = np.cumsum(counts) - counts
    position = np.zeros(len(keys), np.int64)
    position[order] = np.arange(len(keys)) - start[keys[order]]
    return position


def one_queue_for_all(keys: Any, num_keys: int) -> Any:
    """Numbers all entries in one queue. Each expert has its own."""
    return np.arange(len(keys))


def forgets_the_earlier_keys(keys: Any, num_keys: int) -> Any:
    """Looks at the entry before and at no other."""
    return np.array([int(n > 0 and keys[n] == keys[n - 1]) for n in range(len(keys))], np.int64)


def floating_point_positions(keys: Any, num_keys: int) -> Any:
    """The right positions as floats, as a running sum over a one-hot array of floats gives. Places are integers."""
    return position_by_key(keys, num_keys).astype(float)


CHECKS = (
    Check("counts earlier entries with the same key", 4, typical, "for each entry: how many before it are equal?"),
    Check("everybody is first", 1, distinct, "with distinct keys all positions are 0"),
    Check("crowded and empty experts", 2, crowded, "a key that does not occur must not shift the others"),
    Check("arrays with gaps", 1, strided(typical), "do not rely on the order in memory"),
    Check("nobody", 1, empty, "(0,) in, (0,) out, still integers"),
    Check("the smallest queue", 1, one_by_one(case(np.array([2, 0, 2, 2]), 3)), "by hand: 0, 0, 1, 2"),
)

MISTAKES = (
    counts_itself,
    counts_everybody,
    counts_from_the_end,
    place_in_sorted_order,
    positions_in_sorted_order,
    applies_the_order_twice,
    restarts_at_each_run,
    unstable_sort,
    one_queue_for_all,
    forgets_the_earlier_keys,
    floating_point_positions,
)
