"""Exercise 31: the group-limited choice of DeepSeek-V3."""

from typing import Any

import numpy as np

from moe_numpy.moe.routing import Batch, Candidates
from moe_numpy.moe.selection import GroupLimited

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

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
    found = solution(GroupLimited(k, groups, top_groups, group_score), scores, Batch(len(scores)))
    return found.token, found.expert, found.rank


def specification(self: Any, scores: Any, batch: Any) -> Any:
    """Rank groups, then experts of the best groups, by sorting lists."""
    token, expert, choice = [], [], []
    size = scores.shape[1] // self.num_groups
    for t, row in enumerate(scores):
        members = [list(range(g * size, (g + 1) * size)) for g in range(self.num_groups)]
        counted = 1 if self.group_score == "max" else 2
        worth = [sum(sorted((row[e] for e in group), reverse=True)[:counted]) for group in members]
        groups = sorted(range(self.num_groups), key=lambda g, w=worth: -w[g])[: self.top_groups]  # type: ignore[misc]
        allowed = sorted(e for g in groups for e in members[g])
        best = sorted(allowed, key=lambda e, r=row: -r[e])[: self.k]  # type: ignore[misc]
        for rank, e in enumerate(best):
            token.append(t)
            expert.append(e)
            choice.append(rank)
    return Candidates(np.array(token, np.int64), np.array(expert, np.int64), np.array(choice, np.int64))


SIZES = [(6, 8, 2, 4, 2), (5, 12, 3, 4, 2), (7, 16, 4, 4, 2), (4, 6, 2, 2, 1)]  # T, E, k, groups, top groups


def _sigmoid(h: Any) -> Any:
    return 1 / (1 + np.exp(-h))


def typical(rng: np.random.Generator) -> list[Case]:
    """Sigmoid scores, no bias."""
    return [case(_sigmoid(rng.standard_normal((t, e))), k, g, m) for t, e, k, g, m in SIZES]


def negative(rng: np.random.Generator) -> list[Case]:
    """Biased scores below zero, some or all of them."""
    cases = []
    for t, e, k, g, m in SIZES:
        biased = _sigmoid(rng.standard_normal((t, e))) + rng.uniform(-1.5, 0, e)
        cases += [case(biased, k, g, m), case(biased - 3, k, g, m)]
    return cases


def by_max(rng: np.random.Generator) -> list[Case]:
    """The rule of V2: a group is as good as its best expert."""
    return [case(rng.standard_normal((t, e)), k, g, m, group_score="max") for t, e, k, g, m in SIZES]


def all_groups(rng: np.random.Generator) -> list[Case]:
    """Nothing is excluded; or k takes all that is allowed; or groups of one expert."""
    return [
        case(rng.standard_normal((5, 8)), 3, 4, 4),
        case(rng.standard_normal((5, 8)), 4, 4, 2),
        case(rng.standard_normal((4, 6)), 2, 1, 1),
        case(rng.standard_normal((5, 4)), 2, 4, 3, group_score="max"),
        case(rng.standard_normal((1, 2)), 1, 1, 1),
    ]


def ties(rng: np.random.Generator) -> list[Case]:
    """Equal groups and equal experts."""
    return [case(rng.integers(0, 2, (30, e)).astype(float), k, g, m) for _, e, k, g, m in SIZES]


def nobody(rng: np.random.Generator) -> list[Case]:
    """No tokens."""
    return [case(np.zeros((0, 8)), 2, 4, 2)]


# Wrong solutions


def _best(scores: Any, k: int) -> Any:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _listed(expert: Any) -> Any:
    tokens, k = expert.shape
    return Candidates(np.repeat(np.arange(tokens), k), expert.reshape(-1), np.tile(np.arange(k), tokens))


def _worth(self: Any, scores: Any) -> Any:
    """The right score of each group."""
    grouped = scores.reshape(len(scores), self.num_groups, -1)
    counted = 1 if self.group_score == "max" else 2
    return np.sort(grouped, axis=2)[:, :, -counted:].sum(axis=2)


def _among(self: Any, scores: Any, worth: Any, excluded: float = -np.inf) -> Any:
    """The right choice, given what groups are worth."""
    allowed = np.zeros(worth.shape, bool)
    np.put_along_axis(allowed, _best(worth, self.top_groups), True, axis=1)
    allowed = np.repeat(allowed, scores.shape[1] // self.num_groups, axis=1)
    return _listed(_best(np.where(allowed, scores, excluded), self.k))


def ignores_the_groups(self: Any, scores: Any, batch: Any) -> Any:
    """Takes the k best of all experts: a token may then need every device."""
    return _listed(_best(scores, self.k))


def excludes_with_zero(self: Any, scores: Any, batch: Any) -> Any:
    """Masks with 0. Biased scores can be negative, and then a forbidden expert wins: -∞ never does."""
    return _among(self, scores, _worth(self, scores), excluded=0.0)


def groups_by_their_best(self: Any, scores: Any, batch: Any) -> Any:
    """Scores a group by its best expert, whatever `group_score` says: that is V2. V3 adds up the two best."""
    return _among(self, scores, scores.reshape(len(scores), self.num_groups, -1).max(axis=2))


def groups_by_their_sum(self: Any, scores: Any, batch: Any) -> Any:
    """Adds up all experts of a group. Bad experts that nobody will choose then count against it."""
    return _among(self, scores, scores.reshape(len(scores), self.num_groups, -1).sum(axis=2))


def always_two(self: Any, scores: Any, batch: Any) -> Any:
    """Adds up two experts even where `group_score` is "max"."""
    grouped = scores.reshape(len(scores), self.num_groups, -1)
    return _among(self, scores, np.sort(grouped, axis=2)[:, :, -2:].sum(axis=2))


def groups_by_their_worst(self: Any, scores: Any, batch: Any) -> Any:
    """Sums the two smallest: sort goes upwards, so the best two are the last."""
    grouped = scores.reshape(len(scores), self.num_groups, -1)
    counted = 1 if self.group_score == "max" else 2
    return _among(self, scores, np.sort(grouped, axis=2)[:, :, :counted].sum(axis=2))


def groups_are_interleaved(self: Any, scores: Any, batch: Any) -> Any:
    """Puts expert e into group e mod G. Neighbours form a group: e // (E / G)."""
    order = np.arange(scores.shape[1]).reshape(-1, self.num_groups).T.reshape(-1)
    found = _among(self, scores[:, order], _worth(self, scores[:, order]))
    return Candidates(found.token, order[found.expert], found.rank)


def mask_is_tiled(self: Any, scores: Any, batch: Any) -> Any:
    """Spreads the mask of groups with tile: g0 g1 g0 g1. Experts of a group are neighbours: repeat, g0 g0 g1 g1."""
    worth = _worth(self, scores)
    allowed = np.zeros(worth.shape, bool)
    np.put_along_axis(allowed, _best(worth, self.top_groups), True, axis=1)
    allowed = np.tile(allowed, (1, scores.shape[1] // self.num_groups))
    return _listed(_best(np.where(allowed, scores, -np.inf), self.k))


def ties_to_the_last_group(self: Any, scores: Any, batch: Any) -> Any:
    """Of equal groups takes the last: argsort read backwards. Every tie goes to the lowest index."""
    worth = _worth(self, scores)
    chosen = np.argsort(worth, axis=1, kind="stable")[:, ::-1][:, : self.top_groups]
    allowed = np.zeros(worth.shape, bool)
    np.put_along_axis(allowed, chosen, True, axis=1)
    allowed = np.repeat(allowed, scores.shape[1] // self.num_groups, axis=1)
    return _listed(_best(np.where(allowed, scores, -np.inf), self.k))


def as_many_groups_as_experts(self: Any, scores: Any, batch: Any) -> Any:
    """Keeps k groups: `top_groups` is a number of its own."""
    worth = _worth(self, scores)
    allowed = np.zeros(worth.shape, bool)
    np.put_along_axis(allowed, _best(worth, self.k), True, axis=1)
    allowed = np.repeat(allowed, scores.shape[1] // self.num_groups, axis=1)
    return _listed(_best(np.where(allowed, scores, -np.inf), self.k))


def lists_by_index(self: Any, scores: Any, batch: Any) -> Any:
    """The right experts in the order of their index: choice 0 must be the best."""
    right = _among(self, scores, _worth(self, scores))
    return _listed(np.sort(right.expert.reshape(-1, self.k), axis=1))


CHECKS = (
    Check("groups by their two best experts", 4, typical, "sort within the group and add the last two", run=choose),
    Check("negative scores", 4, negative, "what is excluded must lose against everything: -∞, not 0", run=choose),
    Check("groups by their best expert", 2, by_max, 'group_score="max" is the rule of V2', run=choose),
    Check("all groups, all experts, groups of one", 1, all_groups, "num_groups and top_groups may agree", run=choose),
    Check("ties go to the lowest index", 2, ties, "stable sorts, for groups and for experts", run=choose),
    Check("float32", 1, float32(negative), "nothing should depend on the dtype", run=choose),
    Check("arrays with gaps", 1, strided(negative), "do not rely on the order in memory", run=choose),
    Check("no tokens", 1, nobody, "three empty arrays of integers", run=choose),
    Check(
        "a choice by hand",
        1,
        one_by_one(case(np.array([[0.9, 0.0, 0.5, 0.6]]), 2, 2, 1)),
        "0.9 + 0.0 loses against 0.5 + 0.6: experts 3 and 2",
        run=choose,
    ),
)

MISTAKES = (
    ignores_the_groups,
    excludes_with_zero,
    groups_by_their_best,
    groups_by_their_sum,
    always_two,
    groups_by_their_worst,
    groups_are_interleaved,
    mask_is_tiled,
    ties_to_the_last_group,
    as_many_groups_as_experts,
    lists_by_index,
)
