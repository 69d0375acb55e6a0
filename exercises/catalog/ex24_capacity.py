"""Exercise 24: who finds a place at a full expert."""

from typing import Any

import numpy as np

from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.routing import Batch, Candidates

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

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
    solution: Any, token: Any, expert: Any, rank: Any, scores: Any, size: int, length: int, scope: Any = "batch"
) -> Any:
    """Build the capacity, the candidates and the batch, and call."""
    return solution(Capacity(1.0, scope=scope), Candidates(token, expert, rank), scores, size, Batch(length))


def specification(self: Any, candidates: Any, scores: Any, size: int, batch: Any) -> Any:
    """Let one candidate after the other ask for a place."""
    fits = np.zeros(len(candidates.token), bool)
    taken: dict[tuple[int, int], int] = {}
    for rank in range(scores.shape[1]):
        for m in range(len(fits)):
            if candidates.rank[m] == rank:
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
    return [case(*_asking(rng, t, e, 1), size, t) for t, e, size in [(12, 3, 3), (7, 4, 2), (9, 2, 4), (1, 1, 1)]]


def two_choices(rng: np.random.Generator) -> list[Case]:
    sizes = [(12, 4, 2, 4), (10, 5, 3, 5), (8, 3, 2, 5), (9, 8, 6, 4), (4, 150, 150, 2), (12, 4, 2, 4)]
    return [case(*_asking(rng, t, e, k), size, t) for t, e, k, size in sizes]


def any_order(rng: np.random.Generator) -> list[Case]:
    """Some candidates are missing, or whole ranks; scores below zero; the order of the list counts."""
    cases = []
    for t, e, k, size in [(12, 4, 2, 3), (10, 5, 3, 3), (12, 4, 2, 3)]:
        *lists, scores = _asking(rng, t, e, k)
        some = rng.permutation(t * k)[: t * k - 4]
        cases.append(case(*(a[some] for a in lists), scores, size, t))
    *lists, scores = _asking(rng, 9, 5, 5)
    late = np.flatnonzero(np.isin(lists[2], [1, 4]))
    return [*cases, case(*(a[late] for a in lists), -scores, 3, 9)]


def scopes(rng: np.random.Generator) -> list[Case]:
    *lists, scores = _asking(rng, 12, 3, 2)
    mixed = rng.permutation(24)
    return [
        case(*_asking(rng, 12, 3, 2), 2, 4, scope="sequence"),
        case(*_asking(rng, 12, 4, 1), 1, 3, scope="sequence"),
        case(*_asking(rng, 12, 3, 2), 3, 12, scope=6),
        case(*_asking(rng, 10, 3, 2), 2, 10, scope=4),
        case(*_asking(rng, 12, 20, 4), 1, 12, scope=3),
        case(*_asking(rng, 12, 3, 2), 5, 4, scope="rank"),
        case(*_asking(rng, 12, 3, 2), 5, 4),
        case(*_asking(rng, 10, 3, 2), 4, 10, scope=64),
        case(*(a[mixed] for a in lists), scores, 1, 4, scope="sequence"),
    ]


def extremes(rng: np.random.Generator) -> list[Case]:
    """Room for all, for none, and at one expert for all but one."""
    one = np.full(20, 1), np.zeros(20, np.int64), rng.random((20, 8))
    return [
        case(*_asking(rng, 6, 3, 2), 12, 6),
        case(*_asking(rng, 6, 3, 2), 0, 6),
        case(np.arange(20), *one, 19, 20),
    ]


NONE = np.zeros(0, np.int64)
EMPTY = one_by_one(*(case(NONE, NONE, NONE, np.ones((tokens, 2)), 2, tokens) for tokens in (3, 0)))
BY_HAND = one_by_one(
    case(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]), np.ones((2, 2)), 1, 2)
)


def many_tokens(rng: np.random.Generator) -> list[Case]:
    """Queues longer than 255 and than 32,767, more than 255 scopes, and a list longer than ranks are multiplied by."""
    return [
        case(*_asking(rng, 400, 2, 2), 200, 400),
        case(*_asking(rng, 1_500, 3, 2), 500, 1_500),
        case(*_asking(rng, 33_000, 1, 1), 32_800, 33_000),
        case(*_asking(rng, 17_000, 2, 2), 9_000, 17_000),
        case(*_asking(rng, 600, 2, 2), 1, 600, scope=2),
    ]


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
    Check("many tokens", 1, many_tokens, "a place, and the number of a queue, can be larger than 32,767", run=ask),
    Check("room for all, room for none", 1, extremes, "places are counted from 0", run=ask),
    *standard_checks(two_choices, floats=False, run=ask),
    Check("no candidates", 1, EMPTY, "the answer is an empty boolean array", run=ask),
    Check(
        "a queue by hand",
        1,
        BY_HAND,
        "two tokens, two experts, one place each: both first choices fit, no second choice does",
        run=ask,
    ),
)

MISTAKES = edits("""
tokens before choices: An early token's second choice then takes the place of a late token's first.
- self._queue(candidates, scores, batch)
+ np.arange(len(candidates.token))
each choice has its own places: Second choices queue behind the first choices; they do not start again at 0.
- (candidates.token // in_scope * num_experts + candidates.expert)[order]
+ ((candidates.token // in_scope * num_experts + candidates.expert) * num_experts + candidates.rank)[order]
- * num_experts
-     place
+ * num_experts * num_experts
+     place
one place too many: place <= size: places count from 0, so that size places are 0 ... size - 1.
- place < size
+ place <= size
left in the order of the queue: Entry m answers candidate m of the list: put the places back with order.
- scatter(position_by_key(queue, num_queues), order, len(order))
+ position_by_key(queue, num_queues)
sorts back with the same permutation: The way back is the inverse, not place[order]: place_of_m[order] = place.
- scatter(position_by_key(queue, num_queues), order, len(order))
+ position_by_key(queue, num_queues)[order]
one scope for all: Ignores the scope: the sequences of a batch then take places from one another.
- max(self.tokens_in_scope(num_tokens, batch), 1)
+ max(num_tokens, 1)
last come first served: Keeps the last to come, as writing into a buffer at place modulo size does.
- self._queue(candidates, scores, batch)
+ self._queue(candidates, scores, batch)[::-1]
best score first: That is drop="probability", where a later token can push out an earlier one.
- self._queue(candidates, scores, batch)
+ np.argsort(-scores[candidates.token, candidates.expert], kind="stable")
drops everybody at a full expert: Drops everyone who asks for such an expert. Only those beyond the first `size` go.
- place < size
+ np.bincount(queue, minlength=num_queues)[queue][np.argsort(order)] <= size
counts in eight bits: A queue may be longer than 255: uint8 wraps around, and late tokens find a place.
- place < size
+ place.astype(np.uint8) < size
second choices first: Sorts the ranks downwards.
- self._queue(candidates, scores, batch)
+ np.argsort(-candidates.rank, kind="stable")
unstable queue: The default of argsort may exchange equal ranks: a later token then comes before an earlier one.
- self._queue(candidates, scores, batch)
+ np.argsort(candidates.rank)
scopes by remainder: Token t belongs to scope t // n: neighbours share it, not every n-th.
- candidates.token // in_scope * num_experts
+ candidates.token % num_queues_of(num_tokens, in_scope) * num_experts
- in_scope = max(self.tokens_in_scope(num_tokens, batch), 1)
+ in_scope = max(self.tokens_in_scope(num_tokens, batch), 1); num_queues_of = lambda t, n: max(-(-t // n), 1)
sequences whatever the scope: Takes the length of a sequence for a scope's. What shares places is what `scope` says.
- max(self.tokens_in_scope(num_tokens, batch), 1)
+ max(self.scope if isinstance(self.scope, int) else batch.sequence_length, 1)
forgets the last scope: T // n scopes: the tokens of a shorter last one are left without places.
- place < size
+ (place < size) & (candidates.token < num_tokens // in_scope * in_scope)
counts in sixteen bits: A queue may be longer than 32,767.
- place < size
+ place.astype(np.int16) < size
third choices like second ones: Choices after the second queue in the order of the list. Each rank has its own turn.
- self._queue(candidates, scores, batch)
+ np.argsort(np.minimum(candidates.rank, 1), kind="stable")
fifth choices like fourth ones: Choices after the fourth queue in the order of the list. Each rank has its own turn.
- self._queue(candidates, scores, batch)
+ np.argsort(np.minimum(candidates.rank, 3), kind="stable")
eight experts in a scope: scope · 8 + expert is one queue's number only while there are at most 8 experts.
- (candidates.token // in_scope * num_experts + candidates.expert)[order]
+ (candidates.token // in_scope * 8 + candidates.expert)[order]
- num_queues = max(-(-num_tokens // in_scope), 1) * num_experts
+ num_queues = max(-(-num_tokens // in_scope), 1) * 8 + num_experts
queues in eight bits: Scopes times experts may be more than 255: queues then share places.
- (candidates.token // in_scope * num_experts + candidates.expert)[order]
+ (candidates.token // in_scope * num_experts + candidates.expert)[order] % 256
rank and place in one number: rank · 1000 + m puts candidate 1000 of the first choices behind second ones. Sort twice.
- self._queue(candidates, scores, batch)
+ np.argsort(candidates.rank * 1000 + np.arange(len(candidates.rank)), kind="stable")
""")
