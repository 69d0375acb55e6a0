"""Exercise 29: experts choose tokens."""

import math
from typing import Any

import numpy as np

from moe_numpy.moe.routing import Batch, Candidates
from moe_numpy.moe.selection import ExpertChoice

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=29,
    name="expert_choice",
    title="Expert choice",
    teaches="Turned round, top-k balances itself: each expert takes its best tokens, at the price of looking ahead.",
    difficulty=2,
    minutes=20,
    needs=(11,),
    target="moe_numpy.moe.selection:ExpertChoice.__call__",
    imports=("from moe_numpy import kernels",),
    hints=(
        "It is top-k along the other axis. First find L from self.scope, and C; guard the ceiling against rounding: "
        "1.1 · 100 is 110.00000000000001.",
        "scores.reshape(-1, L, E).swapaxes(1, 2) has a row for each expert of each set. Made [rows, L], its top C are "
        "tokens counted within the set: kernels.top_k(rows, C).",
        "Row r belongs to set r // E, whose first token is r // E * L, and to expert r % E. Add the first token, "
        "flatten, repeat each row's expert C times, and let choice be zeros. No tokens: return empty arrays at once.",
    ),
)


def choose(solution: Any, scores: Any, length: int, factor: float, scope: str = "sequence") -> Any:
    """Build the rule and the batch, call, and take the candidates apart."""
    found = solution(ExpertChoice(factor, scope), scores, Batch(length))
    return found.token, found.expert, found.rank


def specification(self: Any, scores: Any, batch: Any) -> Any:
    """Each expert of each set takes the best token that is left, C times."""
    tokens, experts = scores.shape
    length = tokens if self.scope == "batch" else batch.sequence_length
    pairs = []
    for start in range(0, tokens, max(length, 1)):
        for e in range(experts):
            left = list(range(start, start + length))
            for _ in range(min(length, math.ceil(round(self.factor * length / experts, 6)))):
                best = max(left, key=lambda t, e=e: (scores[t, e], -t))  # type: ignore[misc]
                pairs.append((best, e))
                left.remove(best)
    token, expert = np.array(pairs, np.int64).reshape(-1, 2).T
    return Candidates(token, expert, np.zeros_like(token))


def one_sequence(rng: np.random.Generator) -> list[Case]:
    """One sequence, capacities that come out even."""
    return [case(rng.random((t, e)), t, f) for t, e, f in [(8, 4, 2.0), (6, 3, 1.0), (12, 2, 1.0), (9, 3, 2.0)]]


def sequences(rng: np.random.Generator) -> list[Case]:
    """Several sequences of one batch."""
    return [case(rng.random((n * s, e)), s, f) for n, s, e, f in [(3, 8, 4, 2.0), (2, 6, 3, 1.0), (4, 4, 2, 1.0)]]


def whole_batch(rng: np.random.Generator) -> list[Case]:
    """One set over all sequences."""
    return [case(rng.random((12, 4)), 4, 2.0, scope="batch"), case(rng.random((10, 5)), 5, 1.0, scope="batch")]


def odd_capacities(rng: np.random.Generator) -> list[Case]:
    """Capacities that have to be rounded up, that are all tokens, and that are above one."""
    return [case(rng.random((t, e)), t, f) for t, e, f in [(7, 4, 1.0), (5, 3, 1.5), (10, 4, 1.25), (3, 8, 1.0)]] + [
        case(rng.random((4, 2)), 4, 2.0),
        case(rng.random((1, 1)), 1, 1.0),
    ]


def ties(rng: np.random.Generator) -> list[Case]:
    """Scores from a few values."""
    return [case(rng.integers(0, 3, (t, 3)).astype(float), s, 1.0) for t, s in [(24, 12), (20, 20), (60, 60)]]


def nobody(rng: np.random.Generator) -> list[Case]:
    """No tokens."""
    return [case(np.zeros((0, 4)), 5, 2.0)]


# Wrong solutions


def _capacity(self: Any, length: int, experts: int) -> int:
    return min(length, math.ceil(self.factor * length / experts - 1e-9))


def _length(self: Any, scores: Any, batch: Any) -> int:
    return len(scores) if self.scope == "batch" else batch.sequence_length


def _taken(scores: Any, length: int, capacity: int, backwards: bool = False, ascending: bool = False) -> Any:
    """Token and expert of each candidate as [sets, experts, capacity]."""
    experts = scores.shape[1]
    sets = scores.reshape(-1, length, experts) if len(scores) else scores.reshape(0, length, experts)
    if backwards:
        order = np.argsort(sets, axis=1, kind="stable")[:, ::-1]
    else:
        order = np.argsort(sets if ascending else -sets, axis=1, kind="stable")
    token = (order + np.arange(len(sets))[:, None, None] * length)[:, :capacity].swapaxes(1, 2)
    return token, np.broadcast_to(np.arange(experts)[:, None], token.shape)


def _listed(token: Any, expert: Any) -> Any:
    token, expert = token.reshape(-1), expert.reshape(-1)
    return Candidates(token, expert, np.zeros_like(token))


def tokens_choose(self: Any, scores: Any, batch: Any) -> Any:
    """Ranks experts for each token: that is token choice, and the load is uneven. Here an expert ranks tokens."""
    k = max(int(self.factor), 1)
    expert = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return _listed(np.repeat(np.arange(len(scores)), expert.shape[1]), expert)


def one_set_for_the_batch(self: Any, scores: Any, batch: Any) -> Any:
    """Lets experts choose from the whole batch: sequences then take places from one another."""
    n = max(len(scores), 1)
    return _listed(*_taken(scores, n, _capacity(self, n, scores.shape[1])))


def forgets_where_the_sequence_begins(self: Any, scores: Any, batch: Any) -> Any:
    """Numbers tokens from 0 in each sequence: without the offset all of them point into the first."""
    length = _length(self, scores, batch)
    token, expert = _taken(scores, max(length, 1), _capacity(self, length, scores.shape[1]))
    return _listed(token % max(length, 1), expert)


def rounds_the_capacity_down(self: Any, scores: Any, batch: Any) -> Any:
    """⌊factor · L / E⌋: with few tokens for each expert some get nothing at all."""
    length = _length(self, scores, batch)
    capacity = min(length, int(self.factor * length / scores.shape[1] + 1e-9))
    return _listed(*_taken(scores, max(length, 1), capacity))


def forgets_the_factor(self: Any, scores: Any, batch: Any) -> Any:
    """C = ⌈L / E⌉: the factor says how many experts a token has on average."""
    length = _length(self, scores, batch)
    return _listed(*_taken(scores, max(length, 1), min(length, -(-length // scores.shape[1]))))


def capacity_of_the_batch(self: Any, scores: Any, batch: Any) -> Any:
    """Computes C from all T tokens, and then takes so many in each sequence."""
    length = _length(self, scores, batch)
    capacity = min(length, _capacity(self, len(scores), scores.shape[1]))
    return _listed(*_taken(scores, max(length, 1), capacity))


def ties_to_the_later_token(self: Any, scores: Any, batch: Any) -> Any:
    """Sorts upwards and reads from the end: of equal scores the later token comes first."""
    length = _length(self, scores, batch)
    return _listed(*_taken(scores, max(length, 1), _capacity(self, length, scores.shape[1]), backwards=True))


def takes_the_worst(self: Any, scores: Any, batch: Any) -> Any:
    """argsort sorts upwards: these are the C smallest scores."""
    length = _length(self, scores, batch)
    return _listed(*_taken(scores, max(length, 1), _capacity(self, length, scores.shape[1]), ascending=True))


def in_the_order_of_ranks(self: Any, scores: Any, batch: Any) -> Any:
    """Lists all first tokens, then all second ones: the axes of experts and ranks are swapped."""
    length = _length(self, scores, batch)
    token, expert = _taken(scores, max(length, 1), _capacity(self, length, scores.shape[1]))
    return _listed(token.swapaxes(1, 2), expert.swapaxes(1, 2))


def reshapes_instead_of_transposing(self: Any, scores: Any, batch: Any) -> Any:
    """reshape(E, L) cuts the scores up in another place: rows of one expert need swapaxes."""
    length, experts = _length(self, scores, batch), scores.shape[1]
    rows = scores.reshape(-1, experts, max(length, 1))
    mixed = rows.swapaxes(1, 2).reshape(-1, experts)
    return _listed(*_taken(mixed, max(length, 1), _capacity(self, length, experts)))


def ranks_as_choices(self: Any, scores: Any, batch: Any) -> Any:
    """Gives the rank inside the expert as `choice`. That is a token's ranking of experts; here tokens have none."""
    length = _length(self, scores, batch)
    token, expert = _taken(scores, max(length, 1), _capacity(self, length, scores.shape[1]))
    rank = np.broadcast_to(np.arange(token.shape[2]), token.shape)
    return Candidates(token.reshape(-1), expert.reshape(-1), rank.reshape(-1))


NEXT = "turn the scores of a set round: one row for each expert, over its tokens; then the top C of each row"


CHECKS = (
    Check("one sequence", 4, one_sequence, NEXT, run=choose),
    Check("several sequences", 3, sequences, "each sequence is a set; add its first token to the index", run=choose),
    Check("the whole batch as one set", 1, whole_batch, "look at self.scope", run=choose),
    Check("capacities that do not come out even", 2, odd_capacities, "round up, and at most L", run=choose),
    Check("ties go to the earlier token", 1, ties, "a stable sort of -scores, or the kernel top_k", run=choose),
    Check("float32", 1, float32(sequences), "nothing should depend on the dtype", run=choose),
    Check("arrays with gaps", 1, strided(sequences), "do not rely on the order in memory", run=choose),
    Check("no tokens", 1, nobody, "three empty arrays of integers", run=choose),
    Check(
        "a choice by hand",
        1,
        one_by_one(case(np.array([[0.9, 0.8], [0.5, 0.6], [0.7, 0.1], [0.2, 0.3]]), 4, 1.0)),
        "C = 2: expert 0 takes tokens 0 and 2, expert 1 takes 0 and 1; nobody takes token 3",
        run=choose,
    ),
)

MISTAKES = (
    tokens_choose,
    one_set_for_the_batch,
    forgets_where_the_sequence_begins,
    rounds_the_capacity_down,
    forgets_the_factor,
    capacity_of_the_batch,
    ties_to_the_later_token,
    takes_the_worst,
    in_the_order_of_ranks,
    reshapes_instead_of_transposing,
    ranks_as_choices,
)
