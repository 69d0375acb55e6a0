"""Exercise 16: the order that puts assignments of one expert side by side."""

from typing import Any

import numpy as np

from moe_numpy import kernels

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=16,
    name="sort_by_expert",
    title="Sort by expert",
    teaches="A stable sort puts the rows of each expert side by side; counts then say where each expert's rows begin.",
    difficulty=1,
    minutes=10,
    needs=(11,),
    target="moe_numpy.kernels.sorting:stable_order",
    hints=(
        "Which kind of sort keeps equal keys in the order in which they came? NumPy's default does not promise it.",
        "By hand it is a counting sort: count each key, take the running sum for where each key's entries begin, then "
        "walk through the keys once and put each index at the next free place of its key. NumPy has it ready.",
        'np.argsort(keys, kind="stable") is all it takes.',
    ),
)


def specification(keys: Any, num_keys: int) -> Any:
    """Per key that occurs, from the lowest: its places, from left to right."""
    places: dict[int, list[int]] = {}
    for n, key in enumerate(keys.tolist()):
        places.setdefault(key, []).append(n)
    return np.array([n for key in sorted(places) for n in places[key]], np.int64)


def rows_of_each_expert(solution: Any, keys: Any, num_keys: int) -> Any:
    """Cut the order at the offsets 0, c₀, c₀+c₁, ...: the tokens of each expert."""
    order = np.asarray(solution(keys, num_keys))
    offsets = kernels.offsets_of(kernels.count(keys, num_keys))
    return tuple(order[offsets[e] : offsets[e + 1]] for e in range(num_keys))


def distinct(rng: np.random.Generator) -> list[Case]:
    return [case(rng.permutation(n), n) for n in (1, 5, 12)]


def equal_keys(rng: np.random.Generator) -> list[Case]:
    """More tokens than the 16 up to which an unstable sort happens to be stable."""
    sizes = [(7, 3), (40, 4), (200, 8), (300, 2), (40, 4)]
    return [*(case(rng.integers(0, e, n), e) for n, e in sizes), case(np.zeros(60, np.int64), 1)]


def unused(rng: np.random.Generator) -> list[Case]:
    return [case(rng.choice([1, 3], 20), 5), case(np.full(9, 2), 4), case(np.full(3, 3), 4)]


def many_keys(rng: np.random.Generator) -> list[Case]:
    """The router sorts by expert · T + token: far more keys than entries; and a few large ones, many times."""
    few = rng.choice([5, 65_998, 65_999], 33_000)
    return [case(rng.integers(0, n, 50), n) for n in (300, 40_000, 200_000)] + [case(few, 66_000)]


def narrow(rng: np.random.Generator) -> list[Case]:
    """Keys of few bits, and more entries than these can count."""
    few = rng.integers(0, 5, 300)
    types = (np.uint8, np.int8, np.uint16, np.int32)
    return [case(few.astype(t), 5) for t in types] + [case(rng.integers(0, 250, 400).astype(np.uint8), 250)]


def many_tokens(rng: np.random.Generator) -> list[Case]:
    return [case(rng.integers(0, 3, 100_000), 3)]


CHECKS = (
    Check("keys of any integer type", 1, narrow, "sort the keys as they are; a product or a minus may overflow"),
    Check("many tokens", 1, many_tokens, "a place can be larger than 32,767"),
    Check("sorts upwards", 2, distinct, "return places, not keys: keys[order] goes upwards"),
    Check("equal keys keep their order", 3, equal_keys, "of two entries with one key the earlier comes first"),
    Check(
        "offsets cut it into experts",
        2,
        equal_keys,
        "result e holds the tokens of expert e; counts and their running sum say where it begins",
        run=rows_of_each_expert,
    ),
    Check("unused experts", 1, unused, "a key that does not occur takes no room"),
    Check("any number of keys", 1, many_keys, "num_keys can be much larger than the number of experts"),
    *standard_checks(equal_keys, floats=False),
    Check("nothing to sort", 1, one_by_one(case(np.zeros(0, np.int64), 4)), "(0,) in, (0,) out, still integers"),
    Check("the smallest example", 1, one_by_one(case(np.array([1, 0, 1, 0]), 2)), "by hand: 1, 3, 0, 2"),
)

MISTAKES = edits("""
inverse permutation: Says where each entry goes. The order says where each comes from: it is the inverse of this.
- np.argsort(keys, kind="stable")
+ np.argsort(np.argsort(keys, kind="stable"), kind="stable")
equal keys in reverse: Sorts downwards and reads from the end: entries of one expert come out last token first.
- np.argsort(keys, kind="stable")
+ np.argsort(-keys, kind="stable")[::-1]
highest expert first: Sorts downwards: offsets begin with expert 0, and so must the order.
- np.argsort(keys, kind="stable")
+ np.argsort(-keys, kind="stable")
returns sorted keys: Returns the keys in order. They tell how many go to each expert, no longer which token it was.
- np.argsort(keys, kind="stable")
+ np.sort(keys)
not stable: Sorts with the default of argsort, which may exchange equal keys: tokens of one expert get out of order.
- np.argsort(keys, kind="stable")
+ np.argsort(keys)
sixteen bits: int16 is fast but wraps around from 32,768 on. Look at num_keys first.
- np.argsort(keys, kind="stable")
+ np.argsort(keys.astype(np.int16), kind="stable")
eight bits: uint8 is enough for 256 experts, but not for every use of this kernel. Look at num_keys first.
- np.argsort(keys, kind="stable")
+ np.argsort(keys.astype(np.uint8), kind="stable")
leaves out the last expert: The last expert's entries are missing: its index is num_keys - 1, not num_keys.
- np.argsort(keys, kind="stable")
+ np.argsort(keys, kind="stable")[: np.sum(keys < num_keys - 1)]
one entry for each key: Finds only the first entry of each expert: what comes later with the same key is lost.
- np.argsort(keys, kind="stable")
+ np.unique(keys, return_index=True)[1]
floating point indices: The right order, as floats: that is what np.zeros makes, and no index.
- np.argsort(keys, kind="stable")
+ np.argsort(keys, kind="stable").astype(float)
key and place in one number: key · N + place overflows where the keys have few bits. Sort them as they are, stably.
- np.argsort(keys, kind="stable")
+ np.argsort((keys.astype(np.int64) * len(keys) + np.arange(len(keys))).astype(keys.dtype), kind="stable")
key and place as a fraction: key + place / N has too few digits for large keys: ties come out in any order.
- np.argsort(keys, kind="stable")
+ np.argsort(keys.astype(np.float32) + (np.arange(len(keys)) / max(len(keys), 1)).astype(np.float32))
key and place in 32 bits: key · N + place overflows with many keys and many entries.
- np.argsort(keys, kind="stable")
+ np.argsort(keys.astype(np.int32) * np.int32(len(keys)) + np.arange(len(keys), dtype=np.int32))
places in eight bits: There may be more than 256 entries: places need int64.
- np.argsort(keys, kind="stable")
+ np.argsort(keys, kind="stable").astype(np.uint8).astype(np.int64)
places in sixteen bits: There may be more than 32,768 entries: places need int64.
- np.argsort(keys, kind="stable")
+ np.argsort(keys, kind="stable").astype(np.int16).astype(np.int64)
negated to reverse: -keys of unsigned integers wraps around: 0 stays the smallest.
- np.argsort(keys, kind="stable")
+ len(keys) - 1 - np.argsort(-keys[::-1], kind="stable")[::-1]
""")
