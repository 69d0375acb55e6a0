"""Exercise 17: the experts' answers back to their tokens, weighted and summed."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=17,
    name="combine",
    title="Combine the experts' answers",
    teaches="The weighted sum back from experts to tokens, and how a gate weight learns: by how well an answer fits.",
    difficulty=2,
    minutes=20,
    needs=(15, 16),
    target="moe_numpy.moe.dispatch:Combine",
    hints=(
        "Try y = np.zeros(2); y[[0, 0]] += 1. What is y[0], and why? NumPy has a function that adds for every index.",
        "Backward: row n went to one token, so start from dy[token_n]. g_n and r_n were multiplied: each gets that "
        "times the other, and g_n is one number for a whole row.",
        "Forward: np.add.at(y, token, r * gate[:, None]). Backward: d = grad[token]; return "
        "(d * gate[:, None], (d * r).sum(axis=1), None).",
    ),
)


def specification(r: Any, gate: Any, token: Any, *, num_tokens: int) -> Any:
    """Add each weighted row to its token."""
    y = np.zeros((num_tokens, r.shape[1]), r.dtype)
    for n in range(len(token)):
        for i in range(r.shape[1]):
            y[token[n], i] += gate[n] * r[n, i]
    return y


def _assignments(rng: np.random.Generator, token: list[int], d: int, num_tokens: int) -> Case:
    n = len(token)
    return case(rng.standard_normal((n, d)), rng.uniform(0.1, 1, n), np.array(token), num_tokens=num_tokens)


def top_1(rng: np.random.Generator) -> list[Case]:
    """One assignment per token, in the order of experts."""
    return [_assignments(rng, token, d, len(token)) for token, d in [([1, 3, 4, 0, 2], 3), ([2, 0, 1], 2), ([0], 1)]]


def top_k(rng: np.random.Generator) -> list[Case]:
    """Several assignments per token."""
    cases = [([1, 3, 0, 1, 2, 3, 0, 2], 3, 4), ([2, 0, 1, 0, 2, 1, 2, 1, 0], 4, 3), ([0, 0], 2, 1)]
    return [_assignments(rng, *c) for c in cases]


def dropped(rng: np.random.Generator) -> list[Case]:
    """Tokens without assignments: the first, one in the middle, the last, all but one."""
    return [_assignments(rng, *c) for c in [([2, 1, 2], 3, 3), ([0, 3, 0, 3], 2, 5), ([1, 0, 1], 2, 4), ([2], 2, 3)]]


def in_order(rng: np.random.Generator) -> list[Case]:
    """The assignments token by token: the same number for each, and not."""
    return [_assignments(rng, token, 2, 3) for token in ([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 2, 2], [0, 1, 1])]


def large_and_small(rng: np.random.Generator) -> list[Case]:
    """Answers of very different size."""
    c = _assignments(rng, [1, 0, 2, 0, 1, 2], 3, 4)
    size = np.array([1e-9, 1e9, 1.0])[c.args[2]]
    return [
        case(c.args[0], c.args[1] * size, c.args[2], num_tokens=4),
        case(1e8 * c.args[0], *c.args[1:], num_tokens=4),
        case(1e-20 * c.args[0], *c.args[1:], num_tokens=4),
    ]


def any_weight(rng: np.random.Generator) -> list[Case]:
    """Weights of both signs, and zero."""
    c = _assignments(rng, [1, 0, 2, 0, 1, 2], 3, 3)
    return [case(c.args[0], np.array([0.5, 0.0, -0.7, 1.5, -1.0, 0.0]), c.args[2], num_tokens=3)]


def many_tokens(rng: np.random.Generator) -> list[Case]:
    """More tokens than 8 bits number, more answers for each than experts usually give, and many columns."""
    return [
        _assignments(rng, [299, 0, 260, 299, 0, 299], 2, 300),
        _assignments(rng, rng.integers(0, 2, 300).tolist(), 3, 3),
        _assignments(rng, [1, 0, 1], 300, 2),
    ]


def narrow(rng: np.random.Generator) -> list[Case]:
    c = _assignments(rng, rng.integers(0, 250, 300).tolist(), 2, 250)
    return [case(*c.args[:2], c.args[2].astype(t), num_tokens=250) for t in (np.uint8, np.int32)]


EMPTY = one_by_one(case(np.zeros((0, 3)), np.zeros(0), np.zeros(0, np.int64), num_tokens=2))
KNOWN = one_by_one(case(np.array([[1.0], [2.0], [4.0]]), np.array([0.5, 1, 0.25]), np.array([1, 0, 1]), num_tokens=2))
NEXT = "y_t = Σ g_n r_n: what is dy_t/dr_n, and what dy_t/dg_n, for t = token[n]?"
CHECKS = (
    Check("one expert per token", 2, top_1, "row n belongs to token[n]: put it there, times gate[n]"),
    Check("several experts per token", 3, top_k, "y[token] += ... keeps only one of several rows"),
    Check(
        "answers of very different size",
        1,
        large_and_small,
        "add each token's own rows only",
        gradient=True,
        finite_differences=False,
    ),
    Check("tokens in order", 1, in_order, "count on no order, and on no number of experts per token", gradient=True),
    Check("tokens of any integer type", 1, narrow, "index with them; do not compute with them"),
    Check(
        "many tokens, answers and columns",
        1,
        many_tokens,
        "a token's number can be larger than 65,535",
        gradient=True,
        finite_differences=False,
    ),
    Check("gradient with weights of any sign", 1, any_weight, "nothing is divided by a weight", gradient=True),
    Check("a token without assignments gets zero", 2, dropped, "start with zeros of shape (num_tokens, d)"),
    Check("gradient with one expert per token", 2, top_1, NEXT, gradient=True),
    Check("gradient with several", 2, top_k, NEXT, gradient=True),
    Check("gradient with tokens dropped", 1, dropped, NEXT, gradient=True),
    *standard_checks(top_k, gradient=NEXT),
    Check("all tokens dropped", 1, EMPTY, "no rows in, zeros of shape (num_tokens, d) out", gradient=True),
    Check("known values", 1, KNOWN, "by hand: token 0 gets 1 · 2, token 1 gets 0.5 · 1 + 0.25 · 4 = 1.5"),
)

MISTAKES = edits("""
loses duplicates: `y[token] += rows` reads y[token] once: of several rows of a token the last stays. Use np.add.at.
- np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
+ y[token] += gate[:, None] * r
keeps the first answer: Takes only the answer of a token's first expert. The answers of all its experts add up.
- np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
+ y[token[::-1]] = (gate[:, None] * r)[::-1]
forgets the weights: Adds the rows without their gate weights: the router then has no influence, and no gradient.
- np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
+ np.add.at(y, token, r)
no inverse permutation: Adds row n to token n mod T. Rows are in the order of experts: row n belongs to token[n].
- np.add.at(y, token,
+ np.add.at(y, np.arange(len(r)) % num_tokens,
divides by the weights: Divides by the sum of a token's weights. Whether they sum to 1 is for the router to decide.
- return y
+ return y / np.maximum(np.bincount(token, gate, num_tokens), 1e-9)[:, None].astype(y.dtype)
as many tokens as seen: Makes max(token) + 1 rows: a last token without assignments has none. Use `num_tokens`.
- combine(r, gate, token, num_tokens)
+ combine(r, gate, token, token.max(initial=-1) + 1)
row gradient without weights: dr_n = dy[token_n]: the factor g_n, by which the row was multiplied, is missing.
- gate[:, None].astype(r.dtype, copy=False) * dy
+ dy
weight gets no gradient: Treats the gate weights as constants. They are the only path of a gradient to the router.
- np.vecdot(r, dy)
+ np.zeros(len(r))
weight gradient of the weighted: dg_n = g_n r_n · dy: dy_t/dg_n is r_n, without g_n.
- np.vecdot(r, dy)
+ gate * np.vecdot(r, dy)
weight gradient sums the answer: dg_n = Σ r_n, without dy. How well an answer fits is its inner product with dy.
- np.vecdot(r, dy)
+ r.sum(axis=1)
weight gradient is a mean: dg_n is the mean over d of r_n dy: an inner product is the sum.
- np.vecdot(r, dy)
+ (r * dy).mean(axis=1)
gathers with the inverse: Gathers dy with the inverse permutation. Forward put row n at token[n]: read dy there.
- grad[token]
+ grad[np.argsort(token, kind="stable") % len(grad)]
differences of a running sum: Beside a large answer a small one has no digits left. Add per token.
- np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
+ order = np.argsort(token, kind="stable")
+     sums = np.concatenate([np.zeros((1, r.shape[1]), r.dtype), np.cumsum((gate[:, None] * r)[order], axis=0)])
+     ends = np.searchsorted(token[order], np.arange(num_tokens + 1))
+     y = (sums[ends[1:]] - sums[ends[:-1]]).astype(r.dtype)
as many experts for each token: Takes a sorted list for one of k per token. Tokens may have different numbers.
- np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
+ if num_tokens and len(token) and len(token) % num_tokens == 0 and (np.diff(token) >= 0).all():
+         y = (gate[:, None] * r).reshape(num_tokens, -1, r.shape[1]).sum(axis=1).astype(r.dtype)
+     else:
+         np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
expects sorted tokens: Adds neighbours up. A token's assignments lie apart, at their experts.
- np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
+ starts = np.flatnonzero(np.diff(token, prepend=-1))
+     y[token[starts]] = np.add.reduceat(gate[:, None] * r, starts, axis=0) if len(r) else 0
no gradient for a zero weight: dg_n = r_n · dy whatever g_n is: a gate at 0 can grow.
- np.vecdot(r, dy)
+ (gate != 0) * np.vecdot(r, dy)
divides the weight out again: g_n r_n / g_n is 0/0 for a weight of 0. Save r itself.
- np.vecdot(r, dy)
+ np.vecdot(gate[:, None] * r, dy) / gate
positive weights only: Takes |g_n|: whether a weight can be negative is for the router to decide.
- d_r, d_gate = combine_gradient
+ gate = np.abs(gate); d_r, d_gate = combine_gradient
tokens in eight bits: There may be more than 256 tokens: uint8 wraps around.
- np.add.at(y, token,
+ np.add.at(y, token.astype(np.uint8),
reads with eight bits: There may be more than 256 tokens, in backward as well.
- grad[token]
+ grad[token.astype(np.uint8)]
four answers at most: Takes the first answers only. How many experts a token has is for the router to decide.
- np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
+ first = np.array([np.sum(token[:n] == t) < 4 for n, t in enumerate(token)], bool)
+     np.add.at(y, token[first], gate[first, None] * r[first])
weights for columns: Multiplies column i with gate[i]: a weight belongs to a row, gate[:, None].
- gate[:, None].astype(r.dtype, copy=False) * r)
+ np.resize(gate, r.shape[1]) * r)
gradients swapped: Returns dg first. Gradients come in the order of the inputs: r, gate.
- d_r, d_gate = combine_gradient
+ d_gate, d_r = combine_gradient
""")
