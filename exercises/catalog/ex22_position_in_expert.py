"""Exercise 22: the place of each assignment in the queue before its expert."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=22,
    name="position_in_expert",
    title="Position in the expert's queue",
    teaches="Who comes first before a full expert: a running count per expert, without a loop over tokens.",
    difficulty=2,
    minutes=20,
    needs=(16,),
    target="moe_numpy.kernels.sorting:position_by_key",
    hints=(
        "There are two ways: a table with a row per entry and a column per key, summed downwards; or a stable sort, "
        "after which each expert's entries stand side by side.",
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
    return [case(rng.integers(0, e, n), e) for n, e in [(7, 3), (20, 4), (50, 8), (5, 1), (1, 1), (20, 4)]]


def distinct(rng: np.random.Generator) -> list[Case]:
    return [case(rng.permutation(6), 6)]


def crowded(rng: np.random.Generator) -> list[Case]:
    """All at one expert; some without tokens; two in turn; more keys than 7 bits, entries and 16 bits number."""
    many = np.append(rng.integers(0, 70_000, 390), rng.choice([4_463, 69_999], 10))  # the same in 16 bits
    return [
        case(np.full(40, 2), 5),
        case(rng.choice([1, 3], 20), 5),
        case(np.tile([0, 1], 8), 2),
        case(rng.integers(0, 150, 300), 150),
        case(many, 70_000),
    ]


def narrow(rng: np.random.Generator) -> list[Case]:
    """Keys of few bits, and queues longer than these can count."""
    few = rng.integers(0, 2, 600)
    types = (np.uint8, np.int8, np.uint16, np.int32)
    return [case(few.astype(t), 2) for t in types] + [case(rng.integers(0, 250, 400).astype(np.uint8), 250)]


def many_tokens(rng: np.random.Generator) -> list[Case]:
    return [case((rng.random(100_000) < 0.001).astype(np.int64), 2)]


CHECKS = (
    Check("counts earlier entries with the same key", 4, typical, "per entry: how many before it are equal?"),
    Check("everybody is first", 1, distinct, "with distinct keys all positions are 0"),
    Check("crowded and empty experts", 2, crowded, "a key that does not occur must not shift the others"),
    Check("keys of any integer type", 1, narrow, "int64 counters, whatever the keys are"),
    Check("many tokens", 1, many_tokens, "a place can be larger than 32,767"),
    *standard_checks(typical, floats=False),
    Check("nobody", 1, one_by_one(case(np.zeros(0, np.int64), 4)), "(0,) in, (0,) out, still integers"),
    Check("the smallest queue", 1, one_by_one(case(np.array([2, 0, 2, 2]), 3)), "by hand: 0, 0, 1, 2"),
)

MISTAKES = edits("""
counts itself: Begins with 1. Nobody is before the first, so its place is 0; a capacity of C holds 0 to C - 1.
- return position
+ return position + 1
counts everybody: Says how many are in the queue, not how many are in front.
- return position
+ return np.bincount(keys, minlength=num_keys)[keys] - 1
counts from the end: Counts those behind: then the earliest tokens would be dropped first.
- return position
+ return np.bincount(keys, minlength=num_keys)[keys] - 1 - position
place in sorted order: The place among all entries sorted by expert. Subtract where the expert's group begins.
- np.arange(len(keys)) - start[keys[order]]
+ np.arange(len(keys))
positions in sorted order: The right numbers in the order of experts. Put them back where their entries stand in `keys`.
- position[order] = np.arange(len(keys)) - start[keys[order]]
+ position = np.arange(len(keys)) - start[keys[order]]
applies the order twice: values[order] sorts once more. The way back is the inverse: position[order] = values.
- position[order] = np.arange(len(keys)) - start[keys[order]]
+ position = (np.arange(len(keys)) - start[keys[order]])[order]
restarts at each run: Counts only neighbours with the same key. A queue goes on after a token for another expert.
- return position
+ n = np.arange(len(keys)); return n - np.maximum.accumulate(n * (np.diff(keys, prepend=-1) != 0))
unstable sort: The default of argsort may exchange equal keys: a later token gets in front of an earlier one.
- np.argsort(keys, kind="stable")
+ np.argsort(keys)
one queue for all: Numbers all entries in one queue. Each expert has its own.
- return position
+ return np.arange(len(keys))
forgets the earlier keys: Looks only at the entry just before. All earlier entries count.
- return position
+ return (np.diff(keys, prepend=-1) == 0).astype(np.int64)
floating point positions: The right positions as floats, the cumsum of a one-hot float array. Places are integers.
- np.empty(len(keys), np.int64)
+ np.empty(len(keys))
counts in eight bits: There may be more than 255 before one expert: uint8 wraps around. Count in int64.
- return position
+ return position.astype(np.uint8).astype(np.int64)
counts in sixteen bits: There may be more than 32,767 before one expert: int16 wraps around. Count in int64.
- return position
+ return position.astype(np.int16).astype(np.int64)
places in the type of the keys: The keys may be uint8, and the queue longer than 255.
- np.empty(len(keys), np.int64)
+ np.empty_like(keys)
first where neighbours differ: Takes a list without equal neighbours for one without equal keys: 0, 1, 0 is none.
- return position
+ return position if (np.diff(keys) == 0).any() else 0 * position
keys in sixteen bits: There may be more than 65,536 keys.
- order = np.argsort(keys, kind="stable")
+ keys = keys.astype(np.uint16); order = np.argsort(keys, kind="stable")
key and place in float32: A float32 has 24 bits: key · N + place loses its last digits.
- np.argsort(keys, kind="stable")
+ np.argsort(keys.astype(np.float32) * len(keys) + np.arange(len(keys), dtype=np.float32))
key and place in one number: key · N + place overflows where the keys have few bits. Sort them as they are, stably.
- np.argsort(keys, kind="stable")
+ np.argsort((keys.astype(np.int64) * len(keys) + np.arange(len(keys))).astype(keys.dtype), kind="stable")
""")
