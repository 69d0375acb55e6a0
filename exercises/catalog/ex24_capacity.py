"""Exercise 24: who finds a place at a full expert."""

from typing import Any

import numpy as np

from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.routing import Batch, Candidates

from ..exercise import Case, Check, Exercise, case, one_by_one, strided

EXERCISE = Exercise(
    number=24,
    name="capacity",
    title="Capacity: who finds a place",
    teaches="An expert with few places drops tokens, and the order of the queue decides which: here by position.",
    difficulty=2,
    minutes=25,
    needs=(11, 22),
    target="moe_numpy.moe.capacity:Capacity.fits",
    imports=("from moe_numpy import kernels",),
    hints=(
        "Three steps: put the candidates in the order in which they ask; find each one's place, the number of earlier "
        "ones at the same queue; compare with size, in the order of the list. Only drop='position' is graded.",
        'np.argsort(candidates.rank, kind="stable") is the order of asking. A queue is a pair of scope and expert: '
        "make one integer of it. kernels.position_by_key(keys, num_keys) counts earlier equal entries.",
        "keys = (token // n) * num_experts + expert, with n = max(self.tokens_in_scope(num_tokens, batch), 1). Then "
        "fits = np.zeros(M, bool); fits[order] = position_by_key(keys[order], ...) < size. For every other `drop` "
        "the class has self._queue(candidates, scores, batch) in the place of that argsort.",
    ),
)


def ask(
    solution: Any, token: Any, expert: Any, choice: Any, scores: Any, size: int, length: int, scope: Any = "batch"
) -> Any:
    """Build the capacity, the candidates and the batch, and call."""
    return solution(Capacity(1.0, scope=scope), Candidates(token, expert, choice), scores, size, Batch(length))


def specification(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """Let one candidate after the other ask for a place."""
    fits = np.zeros(len(candidates.token), bool)
    taken: dict[tuple[int, int], int] = {}
    for choice in range(scores.shape[1]):
        for m in range(len(fits)):
            if candidates.rank[m] == choice:
                scope = int(candidates.token[m]) // self.tokens_in_scope(len(scores), batch)
                place = (scope, int(candidates.expert[m]))
                fits[m] = taken.get(place, 0) < size
                taken[place] = taken.get(place, 0) + 1
    return fits


def _asking(rng: np.random.Generator, tokens: int, experts: int, k: int) -> tuple[Any, ...]:
    """Candidates of a top-k choice that likes the first experts best, and the scores."""
    scores = rng.random((tokens, experts)) + np.linspace(0.4, 0.0, experts)
    expert = np.argsort(-scores, axis=1)[:, :k].reshape(-1)
    return np.repeat(np.arange(tokens), k), expert, np.tile(np.arange(k), tokens), scores


def one_choice(rng: np.random.Generator) -> list[Case]:
    """Every token has one expert."""
    return [case(*_asking(rng, t, e, 1), size, t) for t, e, size in [(12, 3, 3), (7, 4, 2), (9, 2, 4), (1, 1, 1)]]


def two_choices(rng: np.random.Generator) -> list[Case]:
    """Two or three experts for each token."""
    return [case(*_asking(rng, t, e, k), size, t) for t, e, k, size in [(12, 4, 2, 4), (10, 5, 3, 5), (8, 3, 2, 5)]]


def any_order(rng: np.random.Generator) -> list[Case]:
    """Some candidates are missing, and the rest are not in the order of tokens: the order of the list counts."""
    cases = []
    for t, e, k, size in [(12, 4, 2, 3), (10, 5, 3, 3)]:
        *lists, scores = _asking(rng, t, e, k)
        some = rng.permutation(t * k)[: t * k - 4]
        cases.append(case(*(a[some] for a in lists), scores, size, t))
    return cases


def scopes(rng: np.random.Generator) -> list[Case]:
    """Places for each sequence, or for each group of tokens."""
    return [
        case(*_asking(rng, 12, 3, 2), 2, 4, scope="sequence"),
        case(*_asking(rng, 12, 4, 1), 1, 3, scope="sequence"),
        case(*_asking(rng, 12, 3, 2), 3, 12, scope=6),
        case(*_asking(rng, 10, 3, 2), 2, 10, scope=4),
    ]


def extremes(rng: np.random.Generator) -> list[Case]:
    """Room for all; room for nobody."""
    return [case(*_asking(rng, 6, 3, 2), 12, 6), case(*_asking(rng, 6, 3, 2), 0, 6)]


def nobody(rng: np.random.Generator) -> list[Case]:
    """No candidates."""
    none = np.zeros(0, np.int64)
    return [case(none, none, none, rng.random((3, 2)), 2, 3)]


# Wrong solutions


def _places(keys: Any) -> Any:
    """How many earlier entries have the same key."""
    seen: dict[int, int] = {}
    place = np.zeros(len(keys), np.int64)
    for n, key in enumerate(keys.tolist()):
        place[n] = seen.get(key, 0)
        seen[key] = seen.get(key, 0) + 1
    return place


def _keys(capacity: Any, candidates: Any, scores: Any, batch: Any) -> Any:
    return candidates.token // capacity.tokens_in_scope(len(scores), batch) * scores.shape[1] + candidates.expert


def _in_order(capacity: Any, candidates: Any, scores: Any, size: int, batch: Any, order: Any) -> Any:
    fits = np.zeros(len(order), bool)
    fits[order] = _places(_keys(capacity, candidates, scores, batch)[order]) < size
    return fits


def tokens_before_choices(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """Serves all choices of a token before the next token: an early token's second choice takes a late one's first."""
    return _places(_keys(self, candidates, scores, batch)) < size


def each_choice_has_its_own_places(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """Counts second choices from 0 again. They queue behind the first choices: those places are taken."""
    return _places(_keys(self, candidates, scores, batch) * scores.shape[1] + candidates.rank) < size


def one_place_too_many(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """place <= size: places count from 0, so that size places are 0 ... size - 1."""
    order = np.argsort(candidates.rank, kind="stable")
    return _in_order(self, candidates, scores, size + 1, batch, order)


def left_in_the_order_of_the_queue(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """Answers in the order of the queue. The caller asks for entry m of the list: put places back with order."""
    order = np.argsort(candidates.rank, kind="stable")
    return _places(_keys(self, candidates, scores, batch)[order]) < size


def sorts_back_with_the_same_permutation(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """Takes place[order] a second time. The way back is the inverse: place_of_m[order] = place."""
    order = np.argsort(candidates.rank, kind="stable")
    return (_places(_keys(self, candidates, scores, batch)[order]) < size)[order]


def one_scope_for_all(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """Ignores the scope: the sequences of a batch then take places from one another."""
    order = np.argsort(candidates.rank, kind="stable")
    return _in_order(Capacity(1.0), candidates, scores, size, batch, order)


def last_come_first_served(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """Keeps who came last: writing into a buffer of places modulo size does this."""
    order = np.argsort(candidates.rank, kind="stable")[::-1]
    return _in_order(self, candidates, scores, size, batch, order)


def best_score_first(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """Serves the highest score first: that is drop="probability", where a later token can push out an earlier one."""
    order = np.argsort(-scores[candidates.token, candidates.expert], kind="stable")
    return _in_order(self, candidates, scores, size, batch, order)


def drops_everybody_at_a_full_expert(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """Drops all who ask for an expert with too many. Only those beyond the first `size` have to go."""
    keys = _keys(self, candidates, scores, batch)
    return np.array([int((keys == key).sum()) <= size for key in keys], bool)


CHECKS = (
    Check("one choice: first come, first served", 3, one_choice, "count who asked for the expert before", run=ask),
    Check(
        "all first choices before all second choices",
        4,
        two_choices,
        "the last token's first choice comes before the first token's second choice",
        run=ask,
    ),
    Check("candidates in any order", 2, any_order, "answer in the order of the list that came in", run=ask),
    Check("every scope has its own places", 3, scopes, "queue up at the pair (scope, expert)", run=ask),
    Check("room for all, room for nobody", 1, extremes, "places are counted from 0", run=ask),
    Check("arrays with gaps", 1, strided(two_choices), "do not rely on the order in memory", run=ask),
    Check("no candidates", 1, nobody, "the answer is an empty boolean array", run=ask),
    Check(
        "a queue by hand",
        1,
        one_by_one(case(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]), np.ones((2, 2)), 1, 2)),
        "two tokens, two experts, one place each: both first choices fit, no second choice does",
        run=ask,
    ),
)

MISTAKES = (
    tokens_before_choices,
    each_choice_has_its_own_places,
    one_place_too_many,
    left_in_the_order_of_the_queue,
    sorts_back_with_the_same_permutation,
    one_scope_for_all,
    last_come_first_served,
    best_score_first,
    drops_everybody_at_a_full_expert,
)
