"""Exercise 16: the order that puts assignments of one expert side by side."""

from typing import Any

import numpy as np

from moe_numpy import kernels

from ..exercise import Case, Check, Exercise, case, one_by_one, strided

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
    """For each key that occurs, from the lowest: the places where it stands, from left to right."""
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
    """Each key once: only the direction matters."""
    return [case(rng.permutation(n), n) for n in (1, 5, 12)]


def equal_keys(rng: np.random.Generator) -> list[Case]:
    """Few experts, many tokens; more than the 16 up to which an unstable sort happens to be stable."""
    sizes = [(7, 3), (40, 4), (200, 8), (300, 2)]
    return [*(case(rng.integers(0, e, n), e) for n, e in sizes), case(np.zeros(60, np.int64), 1)]


def unused(rng: np.random.Generator) -> list[Case]:
    """Experts that nobody chose, at both ends and between."""
    return [case(rng.choice([1, 3], 20), 5), case(np.full(9, 2), 4), case(np.full(3, 3), 4)]


def many_keys(rng: np.random.Generator) -> list[Case]:
    """The router sorts by expert · T + token: far more keys than entries."""
    return [case(rng.integers(0, n, 50), n) for n in (300, 40_000, 200_000)]


def empty(rng: np.random.Generator) -> list[Case]:
    """Nothing to sort."""
    return [case(np.zeros(0, np.int64), 4)]


# Wrong solutions


def inverse_permutation(keys: Any, num_keys: int) -> Any:
    """Says where each entry goes. The order says where each comes from: it is the inverse of this."""
    return np.argsort(np.argsort(keys, kind="stable"), kind="stable")


def equal_keys_in_reverse(keys: Any, num_keys: int) -> Any:
    """Sorts downwards and reads from the end: entries of one expert come out last token first."""
    return np.argsort(-keys, kind="stable")[::-1]


def highest_expert_first(keys: Any, num_keys: int) -> Any:
    """Sorts downwards: offsets begin with expert 0, and so must the order."""
    return np.argsort(-keys, kind="stable")


def returns_sorted_keys(keys: Any, num_keys: int) -> Any:
    """Returns the keys in order. They tell how many go to each expert, no longer which token it was."""
    return np.sort(keys)


def not_stable(keys: Any, num_keys: int) -> Any:
    """Sorts with the default of argsort, which may exchange equal keys: tokens of one expert get out of order."""
    return np.argsort(keys)


def sixteen_bits(keys: Any, num_keys: int) -> Any:
    """Casts keys to int16, which is fast but wraps around from 32,768 on. Look at num_keys before."""
    return np.argsort(keys.astype(np.int16), kind="stable")


def eight_bits(keys: Any, num_keys: int) -> Any:
    """Casts keys to uint8: enough for 256 experts, but not for every use of this kernel. Look at num_keys before."""
    return np.argsort(keys.astype(np.uint8), kind="stable")


def leaves_out_the_last_expert(keys: Any, num_keys: int) -> Any:
    """Collects keys below num_keys - 1: the last expert's entries are missing. Its index is num_keys - 1."""
    return np.argsort(keys, kind="stable")[: np.sum(keys < num_keys - 1)]


def one_entry_for_each_key(keys: Any, num_keys: int) -> Any:
    """Finds only the first entry of each expert: what comes later with the same key is lost."""
    return np.unique(keys, return_index=True)[1]


def floating_point_indices(keys: Any, num_keys: int) -> Any:
    """Returns the right order as floats, as np.zeros makes them: an array of floats cannot be used as an index."""
    return np.argsort(keys, kind="stable").astype(float)


CHECKS = (
    Check("sorts upwards", 2, distinct, "return places, not keys: keys[order] goes upwards"),
    Check("equal keys keep their order", 3, equal_keys, "of two entries with one key the earlier comes first"),
    Check(
        "offsets cut it into experts",
        2,
        equal_keys,
        "result e holds the tokens of expert e; counts and their running sum say where it begins",
        run=rows_of_each_expert,
    ),
    Check("experts that nobody chose", 1, unused, "a key that does not occur takes no room"),
    Check("any number of keys", 1, many_keys, "num_keys can be much larger than the number of experts"),
    Check("arrays with gaps", 1, strided(equal_keys), "do not rely on the order in memory"),
    Check("nothing to sort", 1, empty, "(0,) in, (0,) out, still integers"),
    Check("the smallest example", 1, one_by_one(case(np.array([1, 0, 1, 0]), 2)), "by hand: 1, 3, 0, 2"),
)

MISTAKES = (
    inverse_permutation,
    equal_keys_in_reverse,
    highest_expert_first,
    returns_sorted_keys,
    not_stable,
    sixteen_bits,
    eight_bits,
    leaves_out_the_last_expert,
    one_entry_for_each_key,
    floating_point_indices,
)
