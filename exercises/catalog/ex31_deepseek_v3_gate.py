"""Exercise 31: the group-limited choice of DeepSeek-V3."""

from typing import Any

import numpy as np

from moe_numpy.moe.routing import Batch, Candidates
from moe_numpy.moe.selection import GroupLimited

from .. import drivers
from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=31,
    name="deepseek_v3_gate",
    title="The choice of DeepSeek-V3",
    teaches="Limit a token to a few devices first, and exclude with minus infinity: biased scores can be negative.",
    difficulty=2,
    minutes=20,
    needs=(11, 27),
    target="moe_numpy.moe.selection:GroupLimited.__call__",
    imports=("from moe_numpy import kernels", "from moe_numpy.moe.selection import top_k_candidates"),
    hints=(
        "scores.reshape(T, self.num_groups, -1) puts each group into a row of its own: two numbers are then easy to "
        "get, the maximum and the sum of the two largest.",
        "kernels.top_k(group_scores, self.top_groups) gives the groups. Make a boolean mask [T, groups], "
        "and np.repeat it along axis 1 to [T, E].",
        "return top_k_candidates(np.where(allowed, scores, -np.inf), self.k), where allowed = np.zeros(..., bool); "
        "allowed[np.arange(T)[:, None], chosen] = True; then repeated by the size of a group.",
    ),
)


def choose(solution: Any, scores: Any, k: int, groups: int, top_groups: int, group_score: str = "top2") -> Any:
    """Build the rule and the batch, call, and take the candidates apart."""
    rule = GroupLimited(k, groups, top_groups, group_score)
    return drivers.candidates(solution(rule, scores, Batch(1)))


def specification(self: Any, scores: Any, batch: Any) -> Any:
    """Rank groups, then experts of the best groups, by sorting lists."""
    found = []
    size = scores.shape[1] // self.num_groups
    for t, row in enumerate(scores):
        members = [list(range(g * size, (g + 1) * size)) for g in range(self.num_groups)]
        counted = 1 if self.group_score == "max" else 2
        worth = [sum(sorted((row[e] for e in group), reverse=True)[:counted]) for group in members]
        groups = sorted(range(self.num_groups), key=lambda g, w=worth: -w[g])[: self.top_groups]  # type: ignore[misc]
        allowed = sorted(e for g in groups for e in members[g])
        best = sorted(allowed, key=lambda e, r=row: -r[e])[: self.k]  # type: ignore[misc]
        found += [(t, e, rank) for rank, e in enumerate(best)]
    return Candidates(*np.array(found, np.int64).reshape(-1, 3).T)


SIZES = [
    (6, 8, 2, 4, 2),
    (5, 12, 3, 4, 2),
    (7, 16, 4, 4, 2),
    (4, 6, 2, 2, 1),
    (6, 8, 2, 4, 2),
]  # T, E, k, groups, top groups


def _sigmoid(h: Any) -> Any:
    return 1 / (1 + np.exp(-h))


def typical(rng: np.random.Generator) -> list[Case]:
    """Sigmoid scores, no bias."""
    return [case(_sigmoid(rng.standard_normal((t, e))), k, g, m) for t, e, k, g, m in SIZES]


def negative(rng: np.random.Generator) -> list[Case]:
    """Biased scores, some or all of them below zero."""
    cases = []
    for t, e, k, g, m in SIZES:
        biased = _sigmoid(rng.standard_normal((t, e))) + rng.uniform(-1.5, 0, e)
        cases += [case(biased, k, g, m), case(biased - 3, k, g, m)]
    return cases


def far_below(rng: np.random.Generator) -> list[Case]:
    """Scores below any number that one would mask with."""
    return [case(-1e12 - 1e12 * rng.random((t, e)), k, g, m) for t, e, k, g, m in SIZES] + [
        case(-1e300 * (1 + rng.random((4, 8))), 3, 4, 2, group_score="max")
    ]


def infinite(rng: np.random.Generator) -> list[Case]:
    """Experts of -∞ in a group that stays, beside groups that do not; and scores that 1 less leaves as they are."""
    inf = np.inf
    return [
        case(np.array([[5.0, -inf, 1.0, 2.0], [-inf, -inf, -inf, -inf]]), 2, 2, 1, group_score="max"),
        case(np.array([[5.0, 4.0, -inf, 1.0, 2.0, 3.0]]), 3, 2, 1),
        case(np.array([[-2e300, -2e300, -1e300, -3e300]]), 2, 2, 1, group_score="max"),
    ]


def by_max(rng: np.random.Generator) -> list[Case]:
    sizes = [*SIZES, (6, 40, 5, 20, 4)]
    return [case(rng.standard_normal((t, e)), k, g, m, group_score="max") for t, e, k, g, m in sizes]


def all_groups(rng: np.random.Generator) -> list[Case]:
    """Nothing is excluded; or k takes all that is allowed; or groups of one expert."""
    return [
        case(rng.standard_normal((5, 8)), 3, 4, 4),
        case(rng.standard_normal((3, 300)), 8, 6, 2),
        case(rng.standard_normal((5, 8)), 4, 4, 2),
        case(rng.standard_normal((4, 6)), 2, 1, 1),
        case(rng.standard_normal((5, 4)), 2, 4, 3, group_score="max"),
        case(rng.standard_normal((1, 2)), 1, 1, 1),
    ]


def ties(rng: np.random.Generator) -> list[Case]:
    """Scores from a few values; one group, and many."""
    sizes = [*SIZES, (30, 96, 8, 32, 8), (30, 40, 5, 1, 1)]
    return [case(rng.integers(0, 3, (30, e)).astype(float), k, g, m) for _, e, k, g, m in sizes]


def close(rng: np.random.Generator) -> list[Case]:
    """Scores that are nearly equal, of a few tokens and of many."""
    shapes = [(6, 8, 2, 4, 2), (5, 12, 3, 2, 1), (300, 8, 2, 4, 1)]
    return [case(1 + 1e-12 * rng.permutation(t * e).reshape(t, e), k, g, m) for t, e, k, g, m in shapes]


BY_HAND = one_by_one(case(np.array([[0.9, 0.0, 0.5, 0.6]]), 2, 2, 1))
CHECKS = (
    Check("groups by their two best experts", 4, typical, "sort within the group and add the last two", run=choose),
    Check("negative scores", 4, negative, "an excluded expert must lose against every other: -∞, not 0", run=choose),
    Check("scores far below zero", 1, far_below, "only -∞ loses against every number", run=choose),
    Check("scores of minus infinity", 1, infinite, "mask with -∞ itself: ties go to the lowest index", run=choose),
    Check("groups by their best expert", 2, by_max, 'group_score="max" is the rule of V2', run=choose),
    Check("all groups, all experts, groups of one", 1, all_groups, "num_groups and top_groups may agree", run=choose),
    Check("ties go to the lowest index", 2, ties, "stable sorts, for groups and for experts", run=choose),
    Check("nearly equal scores", 1, close, "compare the scores as they are", run=choose),
    *standard_checks(negative, run=choose),
    Check("no tokens", 1, one_by_one(case(np.zeros((0, 8)), 2, 4, 2)), "three empty arrays of integers", run=choose),
    Check("a choice by hand", 1, BY_HAND, "0.9 + 0.0 loses against 0.5 + 0.6: experts 3 and 2", run=choose),
)

MISTAKES = edits("""
ignores the groups: Takes the k best of all experts: a token may then need every device.
- xp.where(allowed, scores, -xp.inf)
+ scores
excludes with zero: Masks with 0. Biased scores can be negative, and then a forbidden expert wins. -∞ never wins.
- -xp.inf
+ 0.0
groups by their best: Scores a group by its best expert, whatever `group_score` says: that is V2. V3 adds the two best.
- if self.group_score == "max"
+ if True
groups by their sum: Adds up all experts of a group. Bad experts that would not be chosen then count against it.
- xp.take_along_axis(grouped, two_best, axis=2).sum(axis=2)
+ grouped.sum(axis=2)
always two: Adds up two experts even where `group_score` is "max".
- if self.group_score == "max"
+ if False
groups by their worst: Adds up the two smallest: sort goes upwards, so the two best come last.
- top_k(scores.reshape(-1, size), 2)
+ top_k(-scores.reshape(-1, size), 2)
groups are interleaved: Puts expert e into group e mod G. Neighbours form a group: e // (E / G).
- scores.reshape(num_tokens, self.num_groups, size)
+ scores.reshape(num_tokens, size, self.num_groups).swapaxes(1, 2)
- scores.reshape(-1, size)
+ grouped.reshape(-1, size)
- xp.repeat(allowed, size, axis=1)
+ np.tile(allowed, (1, size))
mask is tiled: Spreads the mask with tile: g0 g1 g0 g1. Experts of a group are neighbours: repeat, g0 g0 g1 g1.
- xp.repeat(allowed, size, axis=1)
+ np.tile(allowed, (1, size))
ties to the last group: Reads argsort backwards: of equal groups the last comes first. Ties go to the lowest index.
- top_k(group_scores, self.top_groups)
+ np.argsort(group_scores, axis=1, kind="stable")[:, ::-1][:, : self.top_groups]
as many groups as experts: Keeps k groups: `top_groups` is a number of its own.
- top_k(group_scores, self.top_groups)
+ top_k(group_scores, self.k)
lists by index: The right experts in the order of their index: the first must be the best, with rank 0.
- return top_k_candidates(xp.where(allowed, scores, -xp.inf), self.k)
+ c = top_k_candidates(xp.where(allowed, scores, -xp.inf), self.k)
+     return replace(c, expert=np.sort(c.expert.reshape(-1, self.k), axis=1).reshape(-1))
excludes with a very negative number: -1e9 beats a score of -1e12. -∞ beats nothing.
- -xp.inf
+ -1e9
groups by their second best: The score of a group is the sum of its two best, not the smaller of them.
- xp.take_along_axis(grouped, two_best, axis=2).sum(axis=2)
+ xp.take_along_axis(grouped, two_best, axis=2).min(axis=2)
groups by absolute value: Biased scores can be negative: a large negative one is a bad one.
- top_k(scores.reshape(-1, size), 2)
+ top_k(abs(scores).reshape(-1, size), 2)
one group too many: Keeps top_groups + 1 groups.
- top_k(group_scores, self.top_groups)
+ top_k(group_scores, min(self.top_groups + 1, self.num_groups))
excludes with the smallest number: It beats a score of -∞, which the best group may hold.
- -xp.inf
+ np.finfo(scores.dtype).min
excludes with less than the least: Where scores are large, the least minus 1 is the least: a tie.
- -xp.inf
+ scores.min(initial=0) - 1
rounds the groups' scores: Groups of nearly equal scores become ties, and ties go to the lowest index.
- top_k(group_scores, self.top_groups)
+ top_k(group_scores.round(6), self.top_groups)
groups of the first token: Chooses the groups once. Each token has its own.
- top_k(group_scores, self.top_groups)
+ np.repeat(top_k(group_scores[:1], self.top_groups), num_tokens, axis=0)
sends the first only: `sent` is None, or True for all: every choice is dispatched.
- return top_k_candidates(xp.where(allowed, scores, -xp.inf), self.k)
+ c = top_k_candidates(xp.where(allowed, scores, -xp.inf), self.k); return replace(c, sent=c.rank == 0)
two different scores: Adds the two largest different scores. Of two equal experts both count.
- xp.take_along_axis(grouped, two_best, axis=2).sum(axis=2)
+ (lambda top: top[..., 0] + np.where(grouped < top, grouped, -xp.inf).max(axis=2))(grouped.max(axis=2, keepdims=True))
""")
