"""Exercise 28: the gate weight of the Switch transformer, the chosen expert's raw score."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=28,
    name="switch",
    title="The gate weight of the Switch transformer",
    teaches="y = p_i f_i(x): the raw probability of the chosen expert, not renormalised, is how the router learns. "
    "This is one piece of the router: the choice is exercise 11, the places are 24, the balance loss is 19.",
    difficulty=1,
    minutes=10,
    needs=(5, 11),
    target="moe_numpy.moe.gates:PickScores",
    hints=(
        "Forward is one line of indexing. token and expert are constants: their gradients are None.",
        "p[token, expert] reads N entries. Backward needs the same two arrays and the shape of p: save them.",
        "dp = np.zeros(self.shape, dtype=grad.dtype); dp[token, expert] = grad; return dp, None, None. No pair occurs "
        "twice, so nothing has to be added up.",
    ),
)


def specification(p: Any, token: Any, expert: Any) -> Any:
    s = np.zeros(len(token), p.dtype)
    for n in range(len(token)):
        s[n] = p[token[n], expert[n]]
    return s


def _softmax(h: Any) -> Any:
    e = np.exp(h - h.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def switch(rng: np.random.Generator) -> list[Case]:
    """One expert per token: the most probable."""
    scores = [_softmax(rng.standard_normal(shape)) for shape in [(6, 4), (3, 5), (4, 2), (5, 5)]]
    return [case(p, np.arange(len(p)), p.argmax(axis=1)) for p in scores]


def any_pairs(rng: np.random.Generator) -> list[Case]:
    """Any pairs, none twice, in any order: k > 1, expert choice or hashing."""
    cases = []
    for t, e, n in [(5, 4, 9), (3, 6, 7), (7, 3, 4), (5, 4, 9)]:
        pairs = rng.permutation(t * e)[:n]
        cases.append(case(_softmax(rng.standard_normal((t, e))), pairs // e, pairs % e))
    return cases


def zeros(rng: np.random.Generator) -> list[Case]:
    """Scores of 0, as a masked softmax has them, and of any sign."""
    p = rng.standard_normal((3, 4)) * np.array([1, 0, 1, 0])
    return [case(p, np.array([0, 1, 2, 2]), np.array([1, 2, 3, 0]))]


def small(rng: np.random.Generator) -> list[Case]:
    """One token and one expert; no assignments; no tokens."""
    none, one = np.zeros(0, np.int64), np.zeros(1, np.int64)
    return [case(np.ones((1, 1)), one, one), case(rng.random((3, 2)), none, none), case(np.zeros((0, 4)), none, none)]


def any_size(rng: np.random.Generator) -> list[Case]:
    """Infinite and missing scores beside those that are read; an infinite gradient; many assignments, wide indices."""
    nan, inf = np.nan, np.inf
    p = np.array([[0.5, -inf, nan], [inf, 0.25, 0.75]])
    many = np.append(rng.permutation(69_999)[:29], 69_999)
    return [
        case(p, np.array([0, 1, 1]), np.array([0, 2, 1])),
        case(p, np.array([1, 0, 0]), np.array([0, 1, 2])),
        case(rng.random((2, 3)), np.array([1, 0]), np.array([0, 2])).upstream(np.array([inf, 1.0])),
        case(rng.random((2, 3)), np.array([1, 0]), np.array([0, 2])).upstream(np.array([1e-9, 2e-9])),
        case(rng.random((5, 4)), np.arange(5), rng.permutation(5) % 4),
        case(rng.random((40, 20)), *np.divmod(rng.permutation(800)[:500], 20)),
        case(rng.random((70_000, 1)), many, np.zeros(30, np.int64)),
        case(rng.random((1, 70_000)), np.zeros(30, np.int64), many),
    ]


KNOWN = one_by_one(case(np.array([[0.7, 0.3], [0.1, 0.9]]), np.array([0, 1]), np.array([0, 1])))
NEXT = "s_n is the entry (token_n, expert_n) of p and nothing else: that entry gets ds_n, all others 0"
CHECKS = (
    Check("forward, one expert per token", 2, switch, "the probability as it is: do not renormalise"),
    Check("forward, any pairs", 2, any_pairs, "p indexed with two integer arrays pairs them up"),
    Check("gradient, one expert per token", 3, switch, NEXT, gradient=True),
    Check("gradient, any pairs", 2, any_pairs, NEXT, gradient=True),
    *standard_checks(any_pairs, gradient=NEXT),
    Check("gradient of a score of zero", 1, zeros, "the value read does not matter", gradient=True),
    Check(
        "scores of any kind and number",
        1,
        any_size,
        "read single entries: a product with 0 is NaN where a score is infinite",
        gradient=True,
        finite_differences=False,
    ),
    Check("gradient of the smallest", 1, small, "an expert that was not chosen gets 0, not None", gradient=True),
    Check("known values", 1, KNOWN, "0.7 and 0.9, not 1 and 1"),
)

MISTAKES = edits("""
always one: Divides by the token's sum, which with one expert is the score itself: the gate is 1 and learns nothing.
- return take_rows(p.reshape(-1), at)
+ return take_rows(p.reshape(-1), at) / p[token, expert]
reads the largest: Reads the token's largest score. A second choice, or one by hashing, has another: use `expert`.
- at = token
+ expert = p.argmax(axis=1)[token]; at = token
ignores the token: Takes entry n for token n. That holds only while each token has one expert, in order.
- at = token
+ token = np.arange(len(token)) % max(len(p), 1); at = token
picks a rectangle: p[token][:, expert] is every token with every expert. Two index arrays pair up in p[token, expert].
- return take_rows(p.reshape(-1), at)
+ return p[token][:, expert]
computes in float64: Returns float64 for float32 probabilities, and everything after it becomes float64 too.
- return take_rows(p.reshape(-1), at)
+ return take_rows(p.reshape(-1), at).astype(np.float64)
gradient to every expert: Spreads the gradient over all experts of the token. Only the chosen entry was read.
- dp.reshape(self.shape), None, None
+ np.broadcast_to(dp.reshape(self.shape).sum(axis=1, keepdims=True), self.shape), None, None
no gradient for the router: Treats the gate as a constant. The choice is one; the probability teaches the router.
- dp.reshape(self.shape), None, None
+ 0 * dp.reshape(self.shape), None, None
ignores upstream: Writes 1 instead of the gradient from above.
- scatter(grad, at,
+ scatter(np.ones_like(grad), at,
softmax twice: Multiplies with p (1 - p), the derivative of softmax. That is another op; here p is the input.
- scatter(grad, at,
+ scatter(grad * self.s * (1 - self.s), at,
- self.save(at)
+ self.save(at); self.s = p[token, expert]
one assignment for each token: Clears the token's row before writing: of two experts only the last gets a gradient.
- dp = scatter(grad, at,
+ last = [*{i // num_experts: n for n, i in enumerate(at)}.values()]; dp = scatter(grad[last], at[last],
gradient on the diagonal: Puts gradient n into row n. It belongs into the row of its token: dp[token_n, expert_n].
- scatter(grad, at,
+ scatter(grad, np.arange(len(at)) % num_tokens * num_experts + at % num_experts,
rows of as many tokens: The flat index is token · E + expert, not token · T + expert.
- at = token * p.shape[1] + expert
+ at = (token * p.shape[0] + expert) % max(p.size, 1)
expert and token exchanged: p is [T, E]: the token comes first.
- at = token * p.shape[1] + expert
+ at = (expert * p.shape[1] + token) % max(p.size, 1)
keeps the indices on the class: The next call overwrites them before this one runs backward. Use self.save.
- self.save(at)
+ type(self).at = at
- (at,) = self.saved
+ at = self.at
no gradient for a score of zero: The derivative of reading an entry is 1, whatever its value is.
- dp.reshape(self.shape), None, None
+ np.where(self.p != 0, dp.reshape(self.shape), 0).astype(dp.dtype), None, None
- self.save(at)
+ self.save(at); self.p = p
multiplies with a mask: 0 · ∞ is NaN: what is not read must not be seen.
- return take_rows(p.reshape(-1), at)
+ return (p[token] * (expert[:, None] == np.arange(p.shape[1]))).sum(axis=1).astype(p.dtype)
gradient by a mask: 0 · ∞ is NaN: an infinite gradient of one score must leave the others at 0.
- dp = scatter(grad, at, num_tokens * num_experts)
+ dp = grad @ (at[:, None] == np.arange(num_tokens * num_experts)).astype(grad.dtype)
indices in sixteen bits: There may be more than 65,535 tokens or experts.
- self.save(at)
+ self.save(at % 65_536)
gradients for the indices: `token` and `expert` are constants: their gradients are None, not zeros.
- .reshape(self.shape), None, None
+ .reshape(self.shape), 0.0 * at, 0.0 * at
""")
