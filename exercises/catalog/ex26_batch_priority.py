"""Exercise 26: batch-prioritised routing."""

from typing import Any

import numpy as np

from moe_numpy.moe.routing import Candidates

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=26,
    name="batch_priority",
    title="Batch-prioritised routing",
    teaches="Another queue before the same doors: when places are few, the tokens that the router is sure of go first.",
    difficulty=2,
    minutes=15,
    needs=(24,),
    target="moe_numpy.moe.capacity:batch_priority_queue",
    hints=(
        "There are two keys: the choice, and behind it the importance of the token, which is the same at all choices.",
        "Sort by the less important key first, then by the more important one with a stable sort. Ties then keep the "
        "order of the first sort.",
        'order = np.argsort(-scores.max(axis=1)[candidates.token], kind="stable"), then '
        'order[np.argsort(candidates.rank[order], kind="stable")].',
    ),
)


def queue(solution: Any, token: Any, expert: Any, choice: Any, scores: Any) -> Any:
    """Build the candidates and call."""
    return solution(Candidates(token, expert, choice), scores)


def specification(candidates: Any, scores: Any) -> Any:
    """Take the most important candidate that is left, again and again."""
    left = list(range(len(candidates.token)))
    order = []
    while left:
        first = left[0]
        for m in left:
            better = max(scores[candidates.token[m]]) > max(scores[candidates.token[first]])
            same_choice = candidates.rank[m] == candidates.rank[first]
            if candidates.rank[m] < candidates.rank[first] or (same_choice and better):
                first = m
        order.append(first)
        left.remove(first)
    return np.array(order, np.int64)


def _softmax(h: Any) -> Any:
    e = np.exp(h - h.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _asking(scores: Any, k: int) -> tuple[Any, ...]:
    """The candidates of the top k, and the scores."""
    tokens = len(scores)
    expert = np.argsort(-scores, axis=1, kind="stable")[:, :k].reshape(-1)
    return np.repeat(np.arange(tokens), k), expert, np.tile(np.arange(k), tokens), scores


def one_choice(rng: np.random.Generator) -> list[Case]:
    """One expert for each token."""
    return [case(*_asking(_softmax(rng.standard_normal(s)), 1)) for s in [(6, 4), (9, 2), (1, 1)]]


def more_choices(rng: np.random.Generator) -> list[Case]:
    """Two or three experts for each token, out of softmax scores."""
    shapes = [(5, 4, 2), (7, 5, 3), (4, 3, 2), (1, 3, 3)]
    return [case(*_asking(_softmax(rng.standard_normal((t, e))), k)) for t, e, k in shapes]


def biased(rng: np.random.Generator) -> list[Case]:
    """Some candidates are missing, in any order, and the best score is not that of the first choice."""
    cases = []
    for t, e, k in [(8, 5, 2), (6, 4, 3)]:
        *lists, _ = _asking(rng.standard_normal((t, e)), k)
        some = rng.permutation(t * k)[: t * k - 3]
        cases.append(case(*(a[some] for a in lists), rng.random((t, e))))
    return cases


def ties(rng: np.random.Generator) -> list[Case]:
    """Scores from a few values only."""
    return [case(*_asking(rng.integers(0, 2, (t, 3)).astype(float), k)) for t, k in [(12, 2), (40, 1), (20, 3)]]


def nobody(rng: np.random.Generator) -> list[Case]:
    """No candidates."""
    none = np.zeros(0, np.int64)
    return [case(none, none, none, rng.random((3, 2))), case(none, none, none, np.zeros((0, 2)))]


# Wrong solutions


def _importance(candidates: Any, scores: Any) -> Any:
    return scores.max(axis=1)[candidates.token]


def by_position(candidates: Any, scores: Any) -> Any:
    """All first choices first, but by the position in the batch: the scores have no say in that."""
    return np.argsort(candidates.rank, kind="stable")


def important_tokens_take_all_their_choices(candidates: Any, scores: Any) -> Any:
    """Sorts by importance alone: the second choice of a good token comes before the first choice of another."""
    return np.argsort(-_importance(candidates, scores), kind="stable")


def importance_before_choice(candidates: Any, scores: Any) -> Any:
    """Sorts by choice within each importance: np.lexsort takes the most important key last, not first."""
    return np.lexsort((candidates.rank, -_importance(candidates, scores)))


def least_important_first(candidates: Any, scores: Any) -> Any:
    """argsort sorts upwards: without the minus the token that matters least asks first."""
    return np.lexsort((_importance(candidates, scores), candidates.rank))


def score_of_the_expert(candidates: Any, scores: Any) -> Any:
    """Ranks by the score for the expert asked for. The importance is the token's: its best score, at every choice."""
    return np.lexsort((-scores[candidates.token, candidates.expert], candidates.rank))


def ties_to_the_last(candidates: Any, scores: Any) -> Any:
    """Sorts upwards and reads backwards: of equally important candidates the last comes first."""
    backwards = np.argsort(_importance(candidates, scores), kind="stable")[::-1]
    return backwards[np.argsort(candidates.rank[backwards], kind="stable")]


def returns_places(candidates: Any, scores: Any) -> Any:
    """Returns each candidate's place in the queue: the inverse of the permutation asked for."""
    return np.argsort(np.lexsort((-_importance(candidates, scores), candidates.rank)))


def sum_of_the_scores(candidates: Any, scores: Any) -> Any:
    """Adds up a token's scores: of a softmax that is 1 for everybody."""
    return np.lexsort((-np.round(scores.sum(axis=1), 6)[candidates.token], candidates.rank))


def returns_tokens(candidates: Any, scores: Any) -> Any:
    """Returns tokens. With two choices a token is in the queue twice: the caller needs places in the list."""
    return candidates.token[np.lexsort((-_importance(candidates, scores), candidates.rank))]


def second_sort_forgets_the_first(candidates: Any, scores: Any) -> Any:
    """Sorts by importance, then sorts the list, not the sorted list, by choice: choice[order] is missing."""
    order = np.argsort(-_importance(candidates, scores), kind="stable")
    return order[np.argsort(candidates.rank, kind="stable")]


CHECKS = (
    Check("one choice: the most important token first", 3, one_choice, "sort -scores.max(axis=1)", run=queue),
    Check(
        "first choices before second choices",
        4,
        more_choices,
        "two sorts: by importance, then a stable one by choice",
        run=queue,
    ),
    Check(
        "importance is the token's best score",
        3,
        biased,
        "max over all experts, looked up with the candidate's token",
        run=queue,
    ),
    Check("ties go to the first in the list", 2, ties, 'kind="stable"', run=queue),
    Check("float32", 1, float32(more_choices), "nothing should depend on the dtype", run=queue),
    Check("arrays with gaps", 1, strided(more_choices), "do not rely on the order in memory", run=queue),
    Check("no candidates", 1, nobody, "an empty array of integers", run=queue),
    Check(
        "a queue by hand",
        1,
        one_by_one(
            case(
                np.array([0, 0, 1, 1]),
                np.array([0, 1, 1, 0]),
                np.array([0, 1, 0, 1]),
                np.array([[0.6, 0.4], [0.2, 0.8]]),
            )
        ),
        "token 1 is surer: candidates 2, 0 and then 3, 1",
        run=queue,
    ),
)

MISTAKES = (
    by_position,
    important_tokens_take_all_their_choices,
    importance_before_choice,
    least_important_first,
    score_of_the_expert,
    ties_to_the_last,
    returns_places,
    sum_of_the_scores,
    returns_tokens,
    second_sort_forgets_the_first,
)
