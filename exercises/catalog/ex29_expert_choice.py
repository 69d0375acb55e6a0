"""Exercise 29: experts choose tokens."""

import math
from typing import Any

import numpy as np

from moe_numpy.moe.routing import Batch, Candidates
from moe_numpy.moe.selection import ExpertChoice

from .. import drivers
from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

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
        "scores.reshape(-1, L, E).swapaxes(1, 2) has a row for each expert of each set. Flattened to rows of length "
        "L, kernels.top_k(rows, C) gives tokens counted within the set.",
        "Row r belongs to set r // E, whose first token is r // E * L, and to expert r % E. Add the first token, "
        "flatten, repeat each row's expert C times, and let rank be zeros. No tokens: return empty arrays at once.",
    ),
)


def choose(solution: Any, scores: Any, length: int, factor: float, scope: str = "sequence") -> Any:
    """Build the rule and the batch, call, and take the candidates apart."""
    return drivers.candidates(solution(ExpertChoice(factor, scope), scores, Batch(length)))


def specification(self: Any, scores: Any, batch: Any) -> Any:
    """Each expert of each set takes the best remaining token, C times."""
    tokens, experts = scores.shape
    length = tokens if self.scope == "batch" else batch.sequence_length
    pairs = []
    for start in range(0, tokens, max(length, 1)):
        for e in range(experts):
            left = list(range(start, start + length))
            for _ in range(min(length, math.ceil(self.factor * length / experts - 1e-9))):
                best = max(left, key=lambda t, e=e: (scores[t, e], -t))  # type: ignore[misc]
                pairs.append((best, e))
                left.remove(best)
    token, expert = np.array(pairs, np.int64).reshape(-1, 2).T
    return Candidates(token, expert, np.zeros_like(token))


def one_sequence(rng: np.random.Generator) -> list[Case]:
    """Capacities that come out even."""
    return [case(rng.random((t, e)), t, f) for t, e, f in [(8, 4, 2.0), (6, 3, 1.0), (12, 2, 1.0), (9, 3, 2.0)]]


def sequences(rng: np.random.Generator) -> list[Case]:
    return [case(rng.random((n * s, e)), s, f) for n, s, e, f in [(3, 8, 4, 2.0), (2, 6, 3, 1.0), (4, 4, 2, 1.0)] * 2]


def whole_batch(rng: np.random.Generator) -> list[Case]:
    return [case(rng.random((12, 4)), 4, 2.0, scope="batch"), case(rng.random((10, 5)), 5, 1.0, scope="batch")]


def odd_capacities(rng: np.random.Generator) -> list[Case]:
    """Rounded up; all tokens; more than there are tokens."""
    sizes = [(7, 4, 1.0), (5, 3, 1.5), (10, 4, 1.25), (3, 8, 1.0), (4, 2, 2.0), (1, 1, 1.0), (4, 2, 5.0), (3, 300, 1.0)]
    alone = [case(rng.random((t, e)), t, f) for t, e, f in sizes]
    return [*alone, case(rng.random((10, 4)), 5, 1.0), case(rng.random((9, 2)), 3, 1.0)]


def many_tokens(rng: np.random.Generator) -> list[Case]:
    """More than 255 and than 32,767, and a capacity that rounding pushes over a whole number."""
    return [
        case(rng.random((300, 2)), 100, 0.5),
        case(rng.random((66_000, 2)), 33_000, 1e-4),
        case(rng.random((100, 10)), 100, 1.1),
        case(np.sort(rng.random((66_000, 1)), axis=0), 33_000, 1e-4),
        case(rng.random((50, 2)), 50, 2.0),
        case(rng.random((140, 3)), 2, 1.5),
        case(1 + 1e-12 * rng.permutation(41 * 20).reshape(41, 20), 41, 1.0),
    ]


def nearly_whole(rng: np.random.Generator) -> list[Case]:
    """Capacities above a whole number by less than the 1e-9 that counts as a rounding error, and by more."""
    return [case(rng.random((6, 3)), 6, 1 + above) for above in (4e-10, 7.5e-10, 3e-9, 1e-8, 4e-7, 1e-5, 1e-3)]


def extreme(rng: np.random.Generator) -> list[Case]:
    """More places than finite scores; scores of zero, below zero, and below any that one would mask with."""
    some = np.where(rng.random((12, 3)) < 0.7, -np.inf, rng.standard_normal((12, 3)))
    return [
        case(some, 6, 2.0),
        case(np.full((4, 2), -np.inf), 4, 1.0),
        case(-rng.integers(0, 3, (8, 4)).astype(float), 8, 2.0),
        case(-1e12 - 1e12 * rng.random((8, 2)), 8, 1.0),
        case(-1e300 * (1 + rng.random((8, 2))), 8, 1.0),
        *(case(size * (1 + rng.random((8, 2))), 8, 1.0) for size in (5.0, 1e12, 1e300)),
    ]


def ties(rng: np.random.Generator) -> list[Case]:
    """Scores from a few values; also where an expert takes one token."""
    sizes = [(24, 12, 1.0), (20, 20, 1.0), (60, 60, 1.0), (60, 20, 0.1)]
    return [case(rng.integers(0, 3, (t, 3)).astype(float), s, f) for t, s, f in sizes]


BY_HAND = one_by_one(case(np.array([[0.9, 0.8], [0.5, 0.6], [0.7, 0.1], [0.2, 0.3]]), 4, 1.0))
NEXT = "transpose the scores of a set: one row per expert, over its tokens; then the top C of each row"
CHECKS = (
    Check("one sequence", 4, one_sequence, NEXT, run=choose),
    Check("several sequences", 3, sequences, "each sequence is a set; add its first token to the index", run=choose),
    Check("the whole batch as one set", 1, whole_batch, "look at self.scope", run=choose),
    Check("capacities that do not come out even", 2, odd_capacities, "round up, and at most L", run=choose),
    Check("many tokens", 1, many_tokens, "1.1 · 100 is 110.00000000000001", run=choose),
    Check("nearly whole capacities", 1, nearly_whole, "take 1e-9 off, then round up", run=choose),
    Check("scores of any size", 1, extreme, "C tokens in any case: -∞ is a score too, the smallest", run=choose),
    Check("ties go to the earlier token", 1, ties, "a stable sort of -scores, or the kernel top_k", run=choose),
    *standard_checks(sequences, run=choose),
    Check("no tokens", 1, one_by_one(case(np.zeros((0, 4)), 5, 2.0)), "three empty arrays of integers", run=choose),
    Check(
        "a choice by hand",
        1,
        BY_HAND,
        "C = 2: expert 0 takes tokens 0 and 2, expert 1 takes 0 and 1; token 3 is not taken",
        run=choose,
    ),
)

MISTAKES = edits("""
tokens choose: Ranks the experts of each token: token choice, and the load is uneven. Here an expert ranks tokens.
- chosen = top_k(rows, capacity)
+ best, chosen = top_k(scores, max(int(self.factor), 1)), top_k(rows, capacity)
- token, expert, xp.zeros(token.shape, dtype=token.dtype)
+ np.repeat(np.arange(num_tokens), best.shape[1]), best.reshape(-1), 0 * best.reshape(-1)
one set for the batch: Lets experts choose from the whole batch: sequences then take places from one another.
- num_tokens if self.scope == "batch" else batch.sequence_length
+ num_tokens
forgets where the sequence begins: Counts tokens from 0 in each sequence: add the sequence's first token.
- (chosen + first[:, None])
+ chosen
rounds the capacity down: ⌊factor · L / E⌋: with few tokens per expert some experts get nothing at all.
- np.ceil(self.factor * length / num_experts - 1e-9)
+ self.factor * length / num_experts + 1e-9
forgets the factor: C = ⌈L / E⌉: the factor says how many experts a token has on average.
- self.factor * length
+ length
capacity of the batch: Computes C from all T tokens, and then takes that many in each sequence.
- self.factor * length
+ self.factor * num_tokens
ties to the later token: Sorts upwards and reads from the end: of equal scores the later token comes first.
- np.argsort(-scores, axis=1, kind="stable")
+ np.argsort(scores, axis=1, kind="stable")[:, ::-1]
takes the worst: argsort sorts upwards: these are the C smallest scores.
- np.argsort(-scores
+ np.argsort(scores
in the order of ranks: Lists all first tokens, then all second ones: the axes of experts and ranks are swapped.
- token, expert, xp.zeros(token.shape, dtype=token.dtype)
+ *(a.reshape(-1, num_experts, capacity).swapaxes(1, 2).reshape(-1) for a in (token, expert, 0 * token))
reshapes instead of transposing: reshape alone cuts the scores up elsewhere: rows of one expert need swapaxes.
- scores.reshape(-1, length, num_experts).swapaxes(1, 2).reshape(-1, length)
+ scores.reshape(-1, length)
ranks as choices: Gives the rank within the expert. `rank` is a token's ranking of experts; here tokens have none.
- xp.zeros(token.shape, dtype=token.dtype)
+ np.tile(np.arange(capacity), len(rows))
trusts the rounding: 1.1 · 100 / 10 is 11.000000000000002, and its ceiling is 12. Take a little off first.
- np.ceil(self.factor * length / num_experts - 1e-9)
+ np.ceil(self.factor * length / num_experts)
rounds to the nearest: C is rounded up: with 1.4 it is 2.
- np.ceil(self.factor * length / num_experts - 1e-9)
+ np.round(self.factor * length / num_experts)
indices in eight bits: There may be more than 255 tokens.
- (chosen + first[:, None])
+ ((chosen + first[:, None]) % 256)
generous with the rounding: Takes off 0.1 before rounding up: 2.05 then becomes 2. Only rounding errors may vanish.
- num_experts - 1e-9
+ num_experts - 0.1
rounds to six digits first: 2.0000002 is more than a rounding error above 2: C is 3.
- np.ceil(self.factor * length / num_experts - 1e-9)
+ np.ceil(np.round(self.factor * length / num_experts, 6))
ranks in float32: Scores that differ in float64 become ties, and ties go to the earlier token.
- chosen = top_k(rows, capacity)
+ chosen = top_k(rows.astype(np.float32), capacity)
takes positive scores only: Every expert takes C tokens, whatever their scores are.
- token, expert, xp.zeros(token.shape, dtype=token.dtype)
+ *(a[scores[token, expert] > 0] for a in (token, expert, 0 * token))
takes finite scores only: Every expert takes C tokens: where only scores of -∞ are left, the earliest of them.
- token, expert, xp.zeros(token.shape, dtype=token.dtype)
+ *(a[scores[token, expert] > -np.inf] for a in (token, expert, 0 * token))
ends at a very negative number: Scores of less become ties.
- chosen = top_k(rows, capacity)
+ chosen = top_k(np.maximum(rows, -1e9), capacity)
ends at a very large number: Scores of more become ties.
- chosen = top_k(rows, capacity)
+ chosen = top_k(np.minimum(rows, 1e9), capacity)
more places than tokens: C is at most the number of tokens: an expert cannot take one twice.
- chosen = top_k(rows, capacity)
+ places = int(np.ceil(self.factor * length / num_experts - 1e-9))
+     capacity = max(capacity, places); chosen = top_k(np.tile(rows, 3), capacity) % length
listed by token: `by_token` says that the list goes through the tokens. This one goes through the experts.
- token, expert, xp.zeros(token.shape, dtype=token.dtype)
+ token, expert, 0 * token, by_token=True
sends the first only: `sent` is None, or True for all: what an expert takes is dispatched.
- token, expert, xp.zeros(token.shape, dtype=token.dtype)
+ token, expert, 0 * token, sent=np.arange(len(token)) % capacity == 0
indices in sixteen bits: There may be more than 32,767 tokens.
- (chosen + first[:, None])
+ ((chosen + first[:, None]) % 32_768)
""")
