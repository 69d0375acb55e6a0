"""Exercise 11: top-k, with ties."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided
from ..mistakes import edits

EXERCISE = Exercise(
    number=11,
    name="top_k",
    title="Top-k, with ties",
    teaches="The choice at the heart of a router, made the same way every time: ties go to the lowest index.",
    difficulty=1,
    minutes=15,
    target="moe_numpy.kernels.sorting:top_k",
    hints=(
        "np.argsort returns indices, not values. It sorts upwards: what must it sort for the largest to come first?",
        'Sorting [::-1] reverses ties as well. Sort -scores with kind="stable" instead.',
        'np.argsort(-scores, axis=1, kind="stable") and then the first k columns.',
    ),
)


def specification(scores: Any, k: int) -> Any:
    """Take the best that is left, k times, looking from left to right."""
    chosen = np.zeros((len(scores), k), np.int64)
    for t, row in enumerate(scores):
        left = list(range(len(row)))
        for j in range(k):
            best = left[0]
            for e in left:
                if row[e] > row[best] or (np.isnan(row[best]) and not np.isnan(row[e])):
                    best = e
            chosen[t, j] = best
            left.remove(best)
    return chosen


def typical(rng: np.random.Generator) -> list[Case]:
    shapes = [(5, 8, 2), (3, 4, 1), (4, 3, 3), (1, 1, 1), (7, 16, 4), (4, 4, 2), (3, 3, 3), (2, 70, 40)]
    return [case(rng.standard_normal((t, e)), k) for t, e, k in shapes]


def ties(rng: np.random.Generator) -> list[Case]:
    """Scores from a few values only, so that ties are everywhere, at the k-boundary too."""
    many = [case(rng.integers(0, 3, (20, 8)).astype(float), k) for k in (1, 2, 4)]
    return [*many, case(np.zeros((3, 20)), 3), case(rng.integers(0, 4, (2, 300)).astype(float), 5)]


def infinite(rng: np.random.Generator) -> list[Case]:
    """Excluded experts score -∞ and are taken only when nothing else is left."""
    x = rng.standard_normal((6, 8))
    x[:, ::2] = -np.inf
    low = np.array([[-1e12, -np.inf, -1.7e308, -1e30, 1.7e308, np.inf, -1e38]])
    return [case(x, 2), case(x, 6), case(low, 1), case(low, 6), case(low, 7)]


def close(rng: np.random.Generator) -> list[Case]:
    """Scores that differ in the last digits only; and a zero of either sign, which is a tie."""
    steps = rng.permuted(np.tile(np.arange(6.0), (5, 1)), axis=1)
    return [
        case(1 + 1e-15 * steps, 3),
        case(1e6 + 0.001 * steps, 3),
        case(1e-12 * steps - 3, 2),
        case(1e-305 * steps, 3),
        case((1 + 2.0**-20 * steps).astype(np.float32), 3),
        case(1 + 1e-15 * rng.permutation(np.arange(300.0))[None], 5),
        case(np.array([[-0.0, 0.0, -1.0]]), 2),
        case(np.array([[-0.0, 0.0], [0.0, -0.0]]), 1),
        case(np.array([[-0.0, 0.0, 3.0], [0.0, -0.0, 3.0]]), 3),
    ]


def many_experts(rng: np.random.Generator) -> list[Case]:
    """The best ones have numbers above what few bits can hold."""
    return [case(np.arange(float(n))[None], 3) for n in (300, 33_000)]


def not_a_number(rng: np.random.Generator) -> list[Case]:
    x = rng.standard_normal((6, 8))
    x[rng.random(x.shape) < 0.4] = np.nan
    beside = np.array([[np.nan, -np.inf, -5.0, np.nan], [-3.0, np.nan, -2.0, np.nan]])
    return [case(x, 1), case(x, 3), case(np.full((2, 4), np.nan), 2), case(beside, 2), case(beside, 4)]


CHECKS = (
    Check("the k largest, best first", 3, typical, "sort downwards, keep the first k columns"),
    Check("ties go to the lowest index", 3, ties, 'a sort with kind="stable" keeps equal entries in order'),
    Check("scores that are nearly equal", 1, close, "compare them as they are"),
    Check("minus infinity comes last but counts", 1, infinite, "do not use a finite number for what was taken"),
    Check("NaN comes last", 1, not_a_number, "where does argsort put NaN?"),
    Check("many experts", 1, many_experts, "an index needs more than 16 bits"),
    Check("float32", 1, float32(typical), "nothing should depend on the dtype"),
    Check("arrays with gaps", 1, strided(ties), "do not rely on the order in memory"),
    Check("no tokens", 1, one_by_one(case(np.zeros((0, 8)), 2)), "(0, 8) in, (0, k) out"),
    Check("the smallest tie", 1, one_by_one(case(np.array([[1.0, 1.0, 0.0]]), 1)), "expert 0, not 1"),
)


def masks_with_zero(scores: Any, k: int) -> Any:
    """Picks the arg-max k times and sets what was picked to 0: negative scores then lose against a picked one."""
    left = np.where(np.isnan(scores), -np.inf, scores)
    columns = []
    for _ in range(k):
        best = left.argmax(axis=1)
        columns.append(best)
        left[np.arange(len(left)), best] = 0.0
    return np.stack(columns, axis=1)


def masks_with_a_very_negative_number(scores: Any, k: int) -> Any:
    """Sets what was picked to -1e9: a score of -1e12, or -∞, then loses against it. Sort instead."""
    left = np.where(np.isnan(scores), -np.inf, scores)
    columns = []
    for _ in range(k):
        best = left.argmax(axis=1)
        columns.append(best)
        left[np.arange(len(left)), best] = -1e9
    return np.stack(columns, axis=1)


MISTAKES = (
    *edits("""
ties to the highest: Sorts upwards and reads from the end: of equal scores the last index comes first.
- np.argsort(-scores, axis=1, kind="stable")[:, :k]
+ np.argsort(np.where(np.isnan(scores), -np.inf, scores), axis=1, kind="stable")[:, ::-1][:, :k]
smallest first: argsort sorts upwards: this takes the k smallest.
- -scores
+ scores
right set in reverse: The right experts with the best last: the first column must be the first choice.
- [:, :k]
+ [:, :k][:, ::-1]
sorted by index: The right experts in the order of their index: the first column must be the first choice.
- np.argsort(-scores, axis=1, kind="stable")[:, :k]
+ np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :k], axis=1)
along the wrong axis: Sorts along axis 0: it ranks the tokens of an expert instead of the experts of a token.
- axis=1
+ axis=0
returns scores: Returns the k largest scores. The router needs to know who they belong to: indices.
- np.argsort(-scores, axis=1, kind="stable")[:, :k]
+ -np.sort(-scores, axis=1, kind="stable")[:, :k]
unstable partition: argpartition finds a right set, but says nothing of the order inside it, nor of ties at its edge.
- np.argsort(-scores, axis=1, kind="stable")[:, :k]
+ np.argpartition(-scores, k - 1, axis=1)[:, :k]
rounds to float32: Scores that differ in float64 become ties, and ties go to the lowest index.
- np.argsort(-scores, axis=1, kind="stable")
+ np.argsort(-scores.astype(np.float32), axis=1, kind="stable")
breaks ties with a small number: 1e-13 times the index is no tie-break but an error: it reorders scores that close.
- np.argsort(-scores, axis=1, kind="stable")
+ np.argsort(1e-13 * np.arange(scores.shape[1]) - scores, axis=1, kind="stable")
NaN as zero: NaN then beats every negative score. It comes last.
- -scores
+ -np.nan_to_num(scores, posinf=np.inf, neginf=-np.inf)
NaN as minus infinity: NaN then ties with an excluded expert. It comes after that.
- -scores
+ -np.where(np.isnan(scores), -np.inf, scores)
wrong axis where it fits: Ranks the tokens of an expert where there are as many tokens as experts. Experts are axis 1.
- axis=1
+ axis=int(scores.shape[0] != scores.shape[1] or len(scores) < 2)
indices in eight bits: There can be more than 256 experts: uint8 wraps around.
- [:, :k]
+ [:, :k].astype(np.uint8).astype(np.int64)
indices in sixteen bits: There can be more than 32,768 columns: int16 wraps around.
- [:, :k]
+ [:, :k].astype(np.int16).astype(np.int64)
rounds to six digits: Scores that differ in the seventh digit become ties, and ties go to the lowest index.
- np.argsort(-scores, axis=1, kind="stable")
+ np.argsort(-scores.round(6), axis=1, kind="stable")
argmax for one: argmax takes NaN for the largest. k = 1 is a k like any other.
- np.argsort(-scores, axis=1, kind="stable")[:, :k]
+ np.argsort(-scores, axis=1, kind="stable")[:, :k] if k > 1 or not scores.size else scores.argmax(axis=1)[:, None]
partition of many: argpartition decides ties at its edge as it likes, however well its result is sorted afterwards.
- np.argsort(-scores, axis=1, kind="stable")[:, :k]
+ np.argsort(-scores, axis=1, kind="stable")[:, :k] if scores.shape[1] < 64 else partitioned(scores)
- return
+ def partitioned(scores):
+         i = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
+         return np.take_along_axis(i, np.argsort(-np.take_along_axis(scores, i, 1), axis=1, kind="stable"), 1)
+     return
infinity is a large number: nan_to_num makes ties of ∞ and the largest finite number.
- -scores
+ -np.where(np.isnan(scores), np.nan, np.clip(scores, -1e308, 1e308))
"""),
    masks_with_zero,
    masks_with_a_very_negative_number,
)
