"""Exercise 26: batch-prioritised routing."""

from typing import Any

import numpy as np

from moe_numpy.moe.routing import Candidates

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=26,
    name="batch_priority",
    title="Batch-prioritised routing",
    teaches="Another order of the queue: when places are few, the tokens that the router is sure of go first.",
    difficulty=2,
    minutes=15,
    needs=(24,),
    target="moe_numpy.moe.capacity:batch_priority_queue",
    hints=(
        "There are two keys: the rank of the choice, and within it the importance of the token, the same at all ranks.",
        "Sort by the less important key first, then by the more important one with a stable sort. Ties then keep the "
        "order of the first sort.",
        'order = np.argsort(-scores.max(axis=1)[candidates.token], kind="stable"), then '
        'order[np.argsort(candidates.rank[order], kind="stable")].',
    ),
)


def queue(solution: Any, token: Any, expert: Any, rank: Any, scores: Any) -> Any:
    """Build the candidates and call."""
    return solution(Candidates(token, expert, rank), scores)


def specification(candidates: Any, scores: Any) -> Any:
    """Sort a list of triples: rank, importance, place in the list."""
    pairs = enumerate(zip(candidates.token, candidates.rank, strict=True))
    asking = sorted((rank, -max(scores[token]), m) for m, (token, rank) in pairs)
    return np.array([m for _, _, m in asking], np.int64)


def _softmax(h: Any) -> Any:
    e = np.exp(h - h.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _asking(scores: Any, k: int) -> tuple[Any, ...]:
    """The candidates of the top k, and the scores."""
    tokens = len(scores)
    expert = np.argsort(-scores, axis=1, kind="stable")[:, :k].reshape(-1)
    return np.repeat(np.arange(tokens), k), expert, np.tile(np.arange(k), tokens), scores


def one_choice(rng: np.random.Generator) -> list[Case]:
    return [case(*_asking(_softmax(rng.standard_normal(s)), 1)) for s in [(6, 4), (9, 2), (1, 1)]]


def more_choices(rng: np.random.Generator) -> list[Case]:
    shapes = [(5, 4, 2), (7, 5, 3), (4, 3, 2), (4, 4, 2), (1, 3, 3)]
    return [case(*_asking(_softmax(rng.standard_normal((t, e))), k)) for t, e, k in shapes]


def biased(rng: np.random.Generator) -> list[Case]:
    """Some candidates are missing, in any order; the best score is not that of the first choice; all are first ones."""
    taken = np.array([4, 0, 2, 0, 3, 2]), np.array([0, 0, 0, 1, 1, 2]), np.zeros(6, np.int64)
    cases = [case(*taken, rng.random((5, 3)))]
    for t, e, k in [(8, 5, 2), (6, 4, 3), (8, 5, 2)]:
        *lists, _ = _asking(rng.standard_normal((t, e)), k)
        some = rng.permutation(t * k)[: t * k - 3]
        cases.append(case(*(a[some] for a in lists), rng.random((t, e))))
    return cases


def many_choices(rng: np.random.Generator) -> list[Case]:
    """Many experts, choices of every rank or of some ranks only, one token."""
    *lists, scores = _asking(rng.standard_normal((6, 7)), 7)
    some = np.flatnonzero(np.isin(lists[2], [1, 4, 6]))
    *alone, best = _asking(rng.standard_normal((1, 5)), 4)
    mixed = rng.permutation(4)
    late = rng.random((9, 100)) + np.linspace(0, 1, 100)
    return [
        case(*lists, scores),
        case(*(a[some] for a in lists), scores),
        case(*(a[mixed] for a in alone), best),
        case(*_asking(rng.random((2, 150)), 150)),
        case(*_asking(late, 2)),
    ]


def wide(rng: np.random.Generator) -> list[Case]:
    """Scores that are no probabilities, and nearly equal ones."""
    shapes = [(6, 4, 2), (5, 3, 3)]
    large = [case(*_asking(10 * rng.standard_normal((t, e)), k)) for t, e, k in shapes]
    close = [case(*_asking(1 + 1e-12 * rng.permutation(t * e).reshape(t, e), k)) for t, e, k in shapes]
    return large + close


def extreme(rng: np.random.Generator) -> list[Case]:
    """Rows of very different size, some of -∞; all below zero; more candidates than 15 bits can number."""
    best = np.array([-np.inf, -1e300, -1e12, -1e10, -2.0, -1.0, 37.5, 40.0, 800.0, 900.0, 1e300, 2e300])
    scores = rng.permutation(best)[:, None] * np.array([1.0, 1.0, 1.0])
    scores[:, 1:] -= np.abs(scores[:, 1:])  # the first is the best of a row
    below = -1 - rng.random((9, 3))
    return [
        case(*_asking(scores, 2)),
        case(*_asking(below, 2)),
        case(*_asking(rng.random((33_000, 1)), 1)),
    ]


def ties(rng: np.random.Generator) -> list[Case]:
    """Scores from a few values only."""
    cases = []
    zeros = np.where(np.arange(6) % 2 == 0, -0.0, 0.0)[:, None]  # equal, whatever their sign
    cases.append(case(*_asking(zeros, 1)))
    for t, k in [(12, 2), (40, 1), (20, 3)]:
        *lists, scores = _asking(rng.integers(0, 2, (t, 3)) * np.array([1.0, 1.0, 0.0]), k)
        mixed = rng.permutation(t * k)
        cases += [case(*lists, scores), case(*(a[mixed] for a in lists), scores)]
    return cases


NONE = np.zeros(0, np.int64)
EMPTY = one_by_one(*(case(NONE, NONE, NONE, np.ones((tokens, 2))) for tokens in (3, 0)))
BY_HAND = one_by_one(case(*(np.array(a) for a in ([0, 0, 1, 1], [0, 1, 1, 0], [0, 1, 0, 1], [[0.6, 0.4], [0.2, 0.8]]))))
CHECKS = (
    Check("one choice: the most important token first", 3, one_choice, "sort -scores.max(axis=1)", run=queue),
    Check(
        "first choices before second choices",
        4,
        more_choices,
        "two sorts: by importance, then a stable one by rank",
        run=queue,
    ),
    Check(
        "importance is the token's best score",
        3,
        biased,
        "max over all experts, looked up with the candidate's token",
        run=queue,
    ),
    Check("many choices and experts", 1, many_choices, "sort by rank; do not count on every rank to occur", run=queue),
    Check("scores of any size", 1, wide, "two sorts; do not add ranks and scores up", run=queue),
    Check("scores that are infinite or below zero", 1, extreme, "two sorts; take the maximum as it is", run=queue),
    Check("ties go to the first in the list", 2, ties, 'kind="stable"', run=queue),
    *standard_checks(more_choices, run=queue),
    Check("no candidates", 1, EMPTY, "an empty array of integers", run=queue),
    Check("a queue by hand", 1, BY_HAND, "token 1 is surer: candidates 2, 0 and then 3, 1", run=queue),
)

MISTAKES = edits("""
by position: All first choices first, but in the order of the batch: the scores have no say.
- array_namespace(scores).argsort(-best, stable=True)
+ np.arange(len(best))
important tokens take all their choices: A good token's second choice comes before another's first. Sort by rank too.
- best = scores.max(axis=1)[candidates.token]
+ best = scores.max(axis=1)[candidates.token]; return np.argsort(-best, kind="stable")
importance before choice: Sorts by rank within each importance: np.lexsort takes the most important key last, not first.
- best = scores.max(axis=1)[candidates.token]
+ best = scores.max(axis=1)[candidates.token]; return np.lexsort((candidates.rank, -best))
least important first: argsort sorts upwards: without the minus the least important token asks first.
- argsort(-best, stable=True)
+ argsort(best, stable=True)
score of the expert: Ranks by the score of the expert asked for. Importance is the token's best score, at every rank.
- scores.max(axis=1)[candidates.token]
+ scores[candidates.token, candidates.expert]
ties to the last: Sorts upwards and reads backwards: of equally important candidates the last comes first.
- argsort(-best, stable=True)
+ argsort(best, stable=True)[::-1]
returns places: Returns each candidate's place in the queue: the inverse of the permutation asked for.
- return order[stable_order(rank[order], num_experts)]
+ return np.argsort(order[stable_order(rank[order], num_experts)])
sum of the scores: Adds up a token's scores: for a softmax that is always 1. Take the maximum.
- scores.max(axis=1)[candidates.token]
+ scores.sum(axis=1).round(6)[candidates.token]
returns tokens: With two choices a token is in the queue twice: the caller needs places in the list.
- best = scores.max(axis=1)[candidates.token]
+ best = scores.max(axis=1)[candidates.token]; return candidates.token[np.lexsort((-best, candidates.rank))]
second sort forgets the first: Sorts the list, not the sorted list, by rank: it must be rank[order].
- order[stable_order(rank[order], num_experts)]
+ order[stable_order(rank, num_experts)]
rank and score in one number: rank - score sorts right only while scores are between 0 and 1.
- best = scores.max(axis=1)[candidates.token]
+ best = scores.max(axis=1)[candidates.token]; return np.argsort(candidates.rank - best, kind="stable")
rounds the scores: Tokens of nearly equal scores become ties, and keep the order of the batch.
- best = scores.max(axis=1)[candidates.token]
+ best = scores.max(axis=1)[candidates.token].round(6)
unstable first sort: The default of argsort may exchange equal scores.
- array_namespace(scores).argsort(-best, stable=True)
+ np.argsort(-best)
score of the first choice: Takes the score of the candidate with rank 0. The best score may be another's.
- best = scores.max(axis=1)[candidates.token]
+ first, of_rank_0 = np.full(len(scores), -1), candidates.rank == 0
+     first[candidates.token[of_rank_0]] = candidates.expert[of_rank_0]
+     chosen = scores[np.arange(len(scores)), first]
+     best = np.where(first >= 0, chosen, scores.max(axis=1))[candidates.token]
ties by token: Of equal candidates the first in the list comes first, whichever token it belongs to.
- best = scores.max(axis=1)[candidates.token]
+ best = scores.max(axis=1)[candidates.token]; return np.lexsort((candidates.token, -best, candidates.rank))
best score at least zero: Starts the maximum at 0: tokens whose scores are all negative become ties.
- scores.max(axis=1)
+ scores.max(axis=1, initial=0)
best score at least a number: Scores below that number, and -∞, become ties.
- scores.max(axis=1)
+ np.maximum(scores.max(axis=1), -1e9)
squashes the scores: A sigmoid is 1 for every large score, and 0 for every very negative one: ties that are none.
- scores.max(axis=1)
+ (1 / (1 + np.exp(-scores))).max(axis=1)
later ranks together: Choices after the fourth queue by importance only. Each rank has its own turn.
- _first_choices_first(candidates.rank,
+ _first_choices_first(np.minimum(candidates.rank, 3),
first eight experts only: The best score may be that of any expert.
- scores.max(axis=1)
+ scores[:, :8].max(axis=1)
rank and scaled score in one number: The scale is infinite where a score is. Two sorts have no scale.
- best = scores.max(axis=1)[candidates.token]
+ best = scores.max(axis=1)[candidates.token]
+     return np.argsort(candidates.rank * (np.ptp(best) + 1 if best.size else 1) - best, kind="stable")
places in sixteen bits: There may be more than 32,767 candidates.
- return _first_choices_first(candidates.rank, array_namespace(scores).argsort(-best, stable=True), scores.shape[1])
+ o = _first_choices_first(candidates.rank, array_namespace(scores).argsort(-best, stable=True), scores.shape[1])
+     return o.astype(np.int16).astype(np.int64)
""")
