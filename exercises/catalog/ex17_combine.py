"""Exercise 17: answers of the experts back to their tokens, weighted and summed."""

from typing import Any

import numpy as np

from moe_numpy.moe.dispatch import Combine

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=17,
    name="combine",
    title="Combine the experts' answers",
    teaches="The weighted way back from experts to tokens, and why a weight learns from how well an answer fits.",
    difficulty=2,
    minutes=20,
    needs=(15, 16),
    target="moe_numpy.moe.dispatch:Combine",
    hints=(
        "Try y = np.zeros(2); y[[0, 0]] += 1. What is y[0], and why? NumPy has a function that adds for every index.",
        "Backward: each row n fed one token, so its gradient begins as g_n = dy[token_n]. w_n and r_n were multiplied: "
        "each gets g_n times the other, and w_n is one number for a whole row.",
        "Forward: np.add.at(y, token, r * w[:, None]). Backward: g = grad[token]; return "
        "(g * w[:, None], (g * r).sum(axis=1), None).",
    ),
)


def specification(r: Any, w: Any, token: Any, *, num_tokens: int) -> Any:
    """Add each weighted row to its token."""
    y = np.zeros((num_tokens, r.shape[1]), r.dtype)
    for n in range(len(token)):
        for i in range(r.shape[1]):
            y[token[n], i] += w[n] * r[n, i]
    return y


def _assignments(rng: np.random.Generator, token: Any, d: int, num_tokens: int) -> Case:
    token = np.asarray(token)
    n = len(token)
    return case(rng.standard_normal((n, d)), rng.uniform(0.1, 1, n), token, num_tokens=num_tokens)


def top_1(rng: np.random.Generator) -> list[Case]:
    """One assignment for each token, in the order of experts."""
    return [_assignments(rng, token, d, len(token)) for token, d in [([1, 3, 4, 0, 2], 3), ([2, 0, 1], 2), ([0], 1)]]


def top_k(rng: np.random.Generator) -> list[Case]:
    """Several assignments for each token."""
    cases = [([1, 3, 0, 1, 2, 3, 0, 2], 3, 4), ([2, 0, 1, 0, 2, 1, 2, 1, 0], 4, 3), ([0, 0], 2, 1)]
    return [_assignments(rng, *c) for c in cases]


def dropped(rng: np.random.Generator) -> list[Case]:
    """Tokens without assignments: the first, one in the middle, the last."""
    return [_assignments(rng, *c) for c in [([2, 1, 2], 3, 3), ([0, 3, 0, 3], 2, 5), ([1, 0, 1], 2, 4)]]


def empty(rng: np.random.Generator) -> list[Case]:
    """All tokens dropped."""
    return [_assignments(rng, np.zeros(0, np.int64), 3, 2)]


# Wrong solutions


class LosesDuplicates(Combine):
    """`y[token] += rows` keeps one row of each token: NumPy reads y[token] once and writes the last. Use np.add.at."""

    def forward(self, r: Any, w: Any, token: Any, *, num_tokens: int) -> Any:
        """Buffered addition."""
        self.save(r, w, token)
        y = np.zeros((num_tokens, r.shape[1]), r.dtype)
        y[token] += r * w[:, None]
        return y


class KeepsTheFirstAnswer(Combine):
    """Takes for each token the answer of its first expert only: those of all its experts add up."""

    def forward(self, r: Any, w: Any, token: Any, *, num_tokens: int) -> Any:
        """Written from the end, so that the first stays."""
        self.save(r, w, token)
        y = np.zeros((num_tokens, r.shape[1]), r.dtype)
        for n in reversed(range(len(token))):
            y[token[n]] = w[n] * r[n]
        return y


class ForgetsTheWeights(Combine):
    """Adds the rows without their weights: the router then has no say, and no gradient."""

    def forward(self, r: Any, w: Any, token: Any, *, num_tokens: int) -> Any:
        """As if all weights were 1."""
        y = super().forward(r, np.ones_like(w), token, num_tokens=num_tokens)
        self.save(r, w, token)
        return y


class NoInversePermutation(Combine):
    """Adds row n to token n mod T. Rows are in the order of experts: row n belongs to token[n]."""

    def forward(self, r: Any, w: Any, token: Any, *, num_tokens: int) -> Any:
        """Rows as they come."""
        y = super().forward(r, w, np.arange(len(r)) % num_tokens, num_tokens=num_tokens)
        self.save(r, w, token)
        return y


class DividesByTheWeights(Combine):
    """Divides by the sum of the weights of each token. Whether weights sum to 1 is for the router to say."""

    def forward(self, r: Any, w: Any, token: Any, *, num_tokens: int) -> Any:
        """A weighted mean."""
        y = super().forward(r, w, token, num_tokens=num_tokens)
        total = np.bincount(token, weights=w, minlength=num_tokens)[:, None].astype(y.dtype)
        return np.divide(y, total, out=np.zeros_like(y), where=total > 0)


class AsManyTokensAsSeen(Combine):
    """Makes max(token) + 1 rows: a last token without assignments has no row. The number is `num_tokens`."""

    def forward(self, r: Any, w: Any, token: Any, *, num_tokens: int) -> Any:
        """Too short if the last were dropped."""
        return super().forward(r, w, token, num_tokens=int(token.max(initial=-1)) + 1)


class RowGradientWithoutWeights(Combine):
    """dr_n = dy[token_n]: the factor w_n, with which the row went in, is missing."""

    def backward(self, grad: Any) -> Any:
        """Only gathered."""
        _, _, token = self.saved
        return grad[token], super().backward(grad)[1], None


class WeightGetsNoGradient(Combine):
    """Treats the weights as constants. They are the only way by which a gradient reaches the router."""

    def backward(self, grad: Any) -> Any:
        """Zero for w."""
        d_r, d_w, _ = super().backward(grad)
        return d_r, np.zeros_like(d_w), None


class WeightGradientOfTheWeighted(Combine):
    """dw_n = w_n r_n · dy: dy_t/dw_n is r_n, without w_n."""

    def backward(self, grad: Any) -> Any:
        """One factor too many."""
        d_r, d_w, _ = super().backward(grad)
        return d_r, d_w * self.saved[1], None


class WeightGradientSumsTheAnswer(Combine):
    """dw_n = Σ r_n, without dy: how well the answer fits is its inner product with the gradient from above."""

    def backward(self, grad: Any) -> Any:
        """As if dy were 1."""
        return super().backward(grad)[0], self.saved[0].sum(axis=1), None


class WeightGradientIsAMean(Combine):
    """dw_n is the mean over d of r_n dy: an inner product is the sum."""

    def backward(self, grad: Any) -> Any:
        """Divided by d."""
        d_r, d_w, _ = super().backward(grad)
        return d_r, d_w / grad.dtype.type(grad.shape[1]), None


class GathersWithTheInverse(Combine):
    """Gathers dy with the inverse of the permutation. Forward put row n at token[n], so dy is read at token[n]."""

    def backward(self, grad: Any) -> Any:
        """argsort(token) instead of token."""
        r, w, token = self.saved
        g = grad[np.argsort(token, kind="stable") % len(grad)]
        return g * w[:, None], (g * r).sum(axis=1), None


NEXT = "y_t = Σ w_n r_n: what is dy_t/dr_n, and what dy_t/dw_n, for t = token[n]?"


CHECKS = (
    Check("one expert for each token", 2, top_1, "row n belongs to token[n]: put it there, times w[n]"),
    Check("several experts for each token", 3, top_k, "y[token] += ... keeps only one of several rows"),
    Check("a token without assignments gets zero", 2, dropped, "begin with zeros of shape (num_tokens, d)"),
    Check("forward keeps float32", 1, float32(top_k), "a float32 input must give a float32 output"),
    Check("gradient with one expert for each token", 2, top_1, NEXT, gradient=True),
    Check("gradient with several", 2, top_k, NEXT, gradient=True),
    Check("gradient with tokens dropped", 1, dropped, NEXT, gradient=True),
    Check("gradient in float32", 1, float32(top_k), NEXT, gradient=True),
    Check("arrays with gaps", 1, strided(top_k), "do not rely on the order in memory"),
    Check("gradient of arrays with gaps", 1, strided(top_k), NEXT, gradient=True),
    Check("all tokens dropped", 1, empty, "no rows in, zeros of shape (num_tokens, d) out"),
    Check(
        "known values",
        1,
        one_by_one(case(np.array([[1.0], [2.0], [4.0]]), np.array([0.5, 1, 0.25]), np.array([1, 0, 1]), num_tokens=2)),
        "by hand: token 0 gets 1 · 2, token 1 gets 0.5 · 1 + 0.25 · 4 = 1.5",
    ),
)

MISTAKES = (
    LosesDuplicates,
    KeepsTheFirstAnswer,
    ForgetsTheWeights,
    NoInversePermutation,
    DividesByTheWeights,
    AsManyTokensAsSeen,
    RowGradientWithoutWeights,
    WeightGetsNoGradient,
    WeightGradientOfTheWeighted,
    WeightGradientSumsTheAnswer,
    WeightGradientIsAMean,
    GathersWithTheInverse,
)
