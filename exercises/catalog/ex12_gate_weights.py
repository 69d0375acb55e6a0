"""Exercise 12: gate weights, the scores of the chosen experts divided by their sum."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=12,
    name="gate_weights",
    title="Gate weights, forward and backward",
    teaches="The only path from the task loss to the router, and why one expert per token closes it.",
    difficulty=2,
    minutes=20,
    needs=(5, 11),
    target="moe_numpy.moe.gates:Renormalize",
    imports=("from moe_numpy.kernels import sum_by_key",),
    hints=(
        "sum_by_key(s, token, num_tokens) gives the sum per token. Indexing it with token copies each sum to the "
        "token's assignments.",
        "g_m = s_m / (S + ε). dg_m/ds_n = (δ_mn - g_m) / (S + ε) if m and n belong to one token, else 0.",
        "Save g, total = S[token] + ε and token; keep num_tokens. inner = sum_by_key(grad * g, token, num_tokens); "
        "ds = (grad - inner[token]) / total; return ds, None.",
    ),
)


def specification(s: Any, token: Any, *, num_tokens: int, epsilon: float = 0.0) -> Any:
    """Per assignment: search all others for those of the same token. Without ε, scores of only 0 count as 1."""
    g = np.zeros(s.shape, s.dtype)
    for n in range(len(s)):
        own = [m for m in range(len(s)) if token[m] == token[n]]
        total = 0.0
        for m in own:
            total += s[m]
        nothing = not epsilon and all(s[m] == 0 for m in own)
        g[n] = 1 / len(own) if nothing else s[n] / (total + epsilon)
    return g


def _case(rng: np.random.Generator, token: Any, num_tokens: int, **settings: float) -> Case:
    return case(0.1 + rng.random(len(token)), token, num_tokens=num_tokens, **settings)


def typical(rng: np.random.Generator) -> list[Case]:
    """k experts per token, ordered by expert: the assignments of a token lie apart."""
    sizes = [(5, 2), (3, 3), (2, 4), (5, 2)]
    return [_case(rng, np.concatenate([rng.permutation(t) for _ in range(k)]), t) for t, k in sizes]


def uneven(rng: np.random.Generator) -> list[Case]:
    """No expert for some tokens, one or several for others."""
    return [
        _case(rng, np.array([0, 2, 5, 2, 0, 2, 3]), 6),
        _case(rng, np.array([4, 4, 1, 4, 4]), 5),
        _case(rng, rng.integers(0, 4, 12), 7),
    ]


def large_and_small(rng: np.random.Generator) -> list[Case]:
    """Scores of very different size: a token's own sum counts."""
    token = np.array([1, 0, 2, 3, 0, 1, 2, 3])
    size = np.array([1e200, 1.0, 1e-9, 1e-200])[token]
    return [case(size * (0.1 + rng.random(8)), token, num_tokens=4)]


def nothing(rng: np.random.Generator) -> list[Case]:
    """Scores that are all 0 beside others, some of them 0 or negative."""
    s = np.array([0.0, 0.3, 0.0, 0.0, 0.9, 0.0, 0.0, -0.5, 0.7, -0.6, -0.2])
    token = np.array([0, 1, 0, 2, 1, 1, 0, 3, 3, 4, 4])
    only = case(np.zeros(2), np.arange(2), num_tokens=2)
    return [case(s, token, num_tokens=5), case(s, token, num_tokens=5, epsilon=1e-20), only]


def cancel(rng: np.random.Generator) -> list[Case]:
    """A sum of 0 whose scores are not 0: nothing to divide by, and nothing to hide."""
    return [case(np.array([0.5, 0.2, -0.5, 0.6]), np.array([0, 1, 0, 1]), num_tokens=2)]


def narrow(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, rng.integers(0, 250, 400).astype(np.uint8), 250), _case(rng, np.array([2, 0, 2], np.int32), 3)]


def one_each(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, rng.permutation(5), 5), _case(rng, np.array([0]), 1)]


def with_epsilon(rng: np.random.Generator) -> list[Case]:
    """Large ε, so that leaving it out shows."""
    return [
        _case(rng, np.array([0, 1, 2, 1, 0, 2, 0]), 3, epsilon=0.5),
        _case(rng, rng.permutation(4), 4, epsilon=0.25),
        case(np.array([0.1, 0.05, 0.3]), np.array([0, 0, 1]), num_tokens=2, epsilon=0.5),
    ]


ZERO_SUM = one_by_one(case(np.array([0.0, 0.7, 0.0, 0.4]), np.array([0, 1, 0, 1]), num_tokens=2, epsilon=0.1))
EMPTY = one_by_one(case(np.zeros(0), np.zeros(0, np.int64), num_tokens=3))
KNOWN = one_by_one(case(np.array([0.6, 0.5, 0.2]), np.array([0, 1, 0]), num_tokens=2))
NEXT = "a score is also in the sum that divides the token's other scores"
CHECKS = (
    Check("weights of k experts per token", 2, typical, "sum the scores by token, then s / S[token]"),
    Check("any number of experts per token", 2, uneven, "token says what belongs together; nothing is in order"),
    Check("scores of very different size", 1, large_and_small, "each token has a sum of its own"),
    Check("tokens of any integer type", 1, narrow, "index with them; do not compute with them"),
    Check(
        "gradient for tokens of any integer type",
        1,
        narrow,
        "index with them; do not compute with them",
        gradient=True,
        finite_differences=False,
    ),
    Check("scores that cancel", 1, cancel, "only scores that are all 0 count as ones; s / 0 is infinite"),
    Check("scores that are all zero", 1, nothing, "they count as ones, but only without ε"),
    Check(
        "gradient of scores that are all zero",
        1,
        nothing,
        "that of ones",
        gradient=True,
        finite_differences=False,
    ),
    Check("epsilon", 1, with_epsilon, "S + ε, once per token"),
    Check("a sum of zero", 1, ZERO_SUM, "S + ε is not zero: no special case is needed", gradient=True),
    Check("gradient", 3, typical, NEXT, gradient=True),
    Check("gradient with any number of experts", 2, uneven, "sum over the token's own assignments", gradient=True),
    Check("gradient with epsilon", 1, with_epsilon, "S + ε where forward had it", gradient=True),
    Check("one expert per token learns nothing", 1, one_each, "g = 1 whatever s is: the gradient is 0", gradient=True),
    *standard_checks(uneven, gradient=NEXT),
    Check("no assignments", 1, EMPTY, "(0,) in, (0,) out"),
    Check("known values", 1, KNOWN, "by hand: ¾, 1 and ¼"),
)

MISTAKES = edits("""
one sum for all: Divides by the sum of all scores. Each token has its own sum.
- take_rows(sum_by_key(s, token, num_tokens), token)
+ s.sum()
loses duplicates: `sums[token] += s` adds only the last of a token's scores. sum_by_key or np.add.at adds all.
- total = take_rows(sum_by_key(s, token, num_tokens), token)
+ sums = np.zeros(num_tokens, s.dtype); sums[token] += s; total = sums[token]
assumes neighbours: Reshapes to [T, k]. Assignments are ordered by expert, and tokens may have any number of them.
- take_rows(sum_by_key(s, token, num_tokens), token)
+ np.repeat(s.reshape(num_tokens, -1).sum(axis=1), len(s) // num_tokens)
softmax of scores: exp(s) / Σ exp(s): the scores are positive already; divide them as they are.
- self.num_tokens = num_tokens
+ self.num_tokens = num_tokens; s = np.exp(s)
sums stay per token: Returns one S per token. Gate weights are per assignment: s / S[token].
- return g
+ return sum_by_key(s, token, num_tokens) + epsilon
forgets epsilon: Ignores ε: a token whose scores are all 0 becomes 0/0.
- total + epsilon
+ total
epsilon for each score: Adds ε to every score before summing: it enters the sum once per expert instead of once.
- sum_by_key(s, token, num_tokens)
+ sum_by_key(s + epsilon, token, num_tokens)
- total + epsilon
+ total
sum is a constant: ds = dg / S: each score is in the sum too, so raising it lowers all weights of its token.
- (grad - inner) / total
+ grad / total
diagonal only: ds = dg (1 - g) / S: a weight depends not only on its own score, but on the token's others as well.
- (grad - inner) / total
+ grad * (1 - g) / total
unweighted sum: ds = (dg - Σ dg) / S: the sum must be weighted with g.
- sum_by_key(grad * g,
+ sum_by_key(grad,
corrects over all tokens: Subtracts Σ dg g over all tokens. Each token has its own sum.
- take_rows(sum_by_key(grad * g, token, self.num_tokens), token)
+ (grad * g).sum()
gradient like softmax: ds = g (dg - Σ dg g) is that of softmax. Here the factor in front is 1/S.
- (grad - inner) / total
+ g * (grad - inner)
gradient without epsilon: Backward assumes that the weights of a token sum to 1. With ε they do not.
- g, total, token = self.saved
+ g, total, token = self.saved; g = g / take_rows(sum_by_key(g, token, self.num_tokens), token)
ignores upstream: Takes ones for the gradient from above; the weights sum to 1, so the result is zero.
- g, total, token = self.saved
+ g, total, token = self.saved; grad = np.ones_like(grad)
computes in float64: np.bincount returns float64, and so does what is divided by it. Cast the sums to the dtype of s.
- minlength=num_keys).astype(values.dtype)
+ minlength=num_keys)
differences of a running sum: Beside a token of large scores a small sum has no digits left. Add per token.
- take_rows(sum_by_key(s, token, num_tokens), token)
+ by_differences(s, token, num_tokens) if s.size else s
- self.num_tokens = num_tokens
+ self.num_tokens = num_tokens
+         def by_differences(s, token, num_tokens):
+             sums = np.cumsum(s * (token == np.arange(num_tokens)[:, None])).reshape(num_tokens, -1)[:, -1]
+             return np.diff(sums, prepend=0).astype(s.dtype)[token]
epsilon as a floor: max(S, ε) is not S + ε.
- total + epsilon
+ np.maximum(total, s.dtype.type(epsilon))
epsilon only for zero: Adds ε only where the sum is 0. The formula has it everywhere.
- total + epsilon
+ np.where(total == 0, s.dtype.type(epsilon), total)
tokens without gaps: Counts only the tokens that occur: a token without experts shifts all later ones.
- take_rows(sum_by_key(s, token, num_tokens), token)
+ sum_by_key(s, np.unique(token, return_inverse=True)[1], num_tokens)[token]
a floor under the sum: max(S, 1e-12): a token of tiny scores then has weights that do not sum to 1.
- g = s / total
+ g = s / np.maximum(total, s.dtype.type(1e-12))
zero divided by zero: A token whose scores are all 0 becomes NaN. Without ε they count as ones.
- if not epsilon:
-             s = ones_for_zeros(s, token, num_tokens)
+ pass
ones for each: Gives each weight of a token without scores 1. They are equal and sum to 1.
- self.num_tokens = num_tokens
+ self.num_tokens = num_tokens; scores = s
- g = s / total
+ g = s / total; g[s != scores] = 1
one for every zero: Replaces each score of 0 by 1. Only where all scores of a token are 0 do they count as ones.
- ones_for_zeros(s, token, num_tokens)
+ np.where(s == 0, np.ones_like(s), s)
small is nothing: Takes scores below 1e-12 for 0. However small, they divide their sum as any others.
- ones_for_zeros(s, token, num_tokens)
+ np.where(take_rows(sum_by_key(abs(s), token, num_tokens), token) < 1e-12, np.ones_like(s), s)
writes ones into the scores: `s[...] = 1` changes the caller's array. np.where makes a new one.
- s = ones_for_zeros(s, token, num_tokens)
+ s[:] = ones_for_zeros(s, token, num_tokens)
ones with epsilon too: With ε a token whose scores are all 0 has weights of 0: the formula says so.
- if not epsilon:
-             s = ones_for_zeros(s, token, num_tokens)
+ s = ones_for_zeros(s, token, num_tokens)
ones where the sum is zero: 0.5 - 0.5 is 0 as well. Only scores that are all 0 count as ones.
- s = ones_for_zeros(s, token, num_tokens)
+ s = np.where(sum_by_key(s, token, num_tokens)[token] == 0, np.ones_like(s), s)
ones where none is positive: Scores may be negative. Only scores that are all 0 count as ones.
- s = ones_for_zeros(s, token, num_tokens)
+ largest = np.zeros(num_tokens, s.dtype); np.maximum.at(largest, token, s)
+             s = np.where(largest[token] > 0, s, np.ones_like(s))
sum without signs: Adds up |s|. The formula has s as it is.
- take_rows(sum_by_key(s, token, num_tokens), token)
+ take_rows(sum_by_key(abs(s), token, num_tokens), token)
tiny epsilon is none: ε = 1e-20, as in DeepSeek-V3, keeps a sum of zeros from 0/0 like any other: the weights are 0.
- if not epsilon:
+ if epsilon < 1e-12:
""")
