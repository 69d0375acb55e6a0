"""Exercise 23: copies of tokens in the order of experts, and the gradients of all copies back."""

from typing import Any

import numpy as np

from moe_numpy.moe.dispatch import Permute

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=23,
    name="permute",
    title="Permute: tokens to their experts",
    teaches="A gather with repetitions, and its adjoint, a scatter that adds.",
    difficulty=1,
    minutes=15,
    needs=(1, 17),
    target="moe_numpy.moe.dispatch:Permute",
    hints=(
        "Forward is indexing with an array. In backward ask of one token: how many rows were copies of it, and what "
        "did exercise 01 say about copies?",
        "dx has T rows, of which some get several gradients and some none. Forward must keep `token` and T; and "
        "`dx[token] += grad` does not add twice to one row.",
        "Forward: x[token], with self.save(token) and self.num_tokens = x.shape[0]. Backward: zeros, then "
        "np.add.at(dx, token, grad); return (dx, None).",
    ),
)


def specification(x: Any, token: Any) -> Any:
    """Copy row by row."""
    r = np.zeros((len(token), x.shape[1]), x.dtype)
    for n, t in enumerate(token.tolist()):
        for i in range(x.shape[1]):
            r[n, i] = x[t, i]
    return r


def _case(rng: np.random.Generator, token: Any, d: int, num_tokens: int) -> Case:
    return case(rng.standard_normal((num_tokens, d)), np.asarray(token))


def top_1(rng: np.random.Generator) -> list[Case]:
    """One expert for each token: a permutation, not its own inverse."""
    return [_case(rng, token, d, len(token)) for token, d in [([1, 3, 4, 0, 2], 3), ([2, 0, 1], 2), ([0], 1)]]


def top_k(rng: np.random.Generator) -> list[Case]:
    """Several experts for each token, neighbouring copies too."""
    cases = [([1, 3, 0, 1, 2, 3, 0, 2], 3, 4), ([2, 0, 1, 0, 2, 1, 2, 1, 0], 4, 3), ([0, 0], 2, 1)]
    return [_case(rng, *c) for c in cases]


def dropped(rng: np.random.Generator) -> list[Case]:
    """Tokens that no expert took: the first, one in the middle, the last."""
    return [_case(rng, *c) for c in [([2, 1, 2], 3, 3), ([0, 3, 0, 3], 2, 5), ([1, 0], 2, 4)]]


def empty(rng: np.random.Generator) -> list[Case]:
    """All tokens dropped."""
    return [_case(rng, np.zeros(0, np.int64), 3, 2)]


# Wrong solutions


class ScattersForward(Permute):
    """r[token[n]] = x[n]: that is the inverse. Row n is a copy of token[n]."""

    def forward(self, x: Any, token: Any) -> Any:
        """Writes where it should read."""
        super().forward(x, token)
        r = np.zeros((max(len(token), len(x)), x.shape[1]), x.dtype)
        r[token] = np.resize(x, (len(token), x.shape[1]))
        return r[: len(token)]


class SortsTheTokens(Permute):
    """Copies in the order of tokens. Rows are in the order of experts, which `token` already is: leave it."""

    def forward(self, x: Any, token: Any) -> Any:
        """In order."""
        super().forward(x, token)
        return x[np.sort(token)]


class OneCopyOfEach(Permute):
    """Copies every token once: one that goes to two experts needs two rows."""

    def forward(self, x: Any, token: Any) -> Any:
        """The first copy of each."""
        super().forward(x, token)
        return x[token[np.sort(np.unique(token, return_index=True)[1])]]


class LosesDuplicates(Permute):
    """`dx[token] += grad` keeps one of several copies: NumPy reads dx[token] once, writes the last. Use np.add.at."""

    def backward(self, grad: Any) -> Any:
        """Buffered addition."""
        (token,) = self.saved
        dx = np.zeros((self.num_tokens, grad.shape[1]), grad.dtype)
        dx[token] += grad
        return dx, None


class KeepsTheFirstCopy(Permute):
    """Takes the gradient of each token's first copy. Every copy passes its gradient back: they add up."""

    def backward(self, grad: Any) -> Any:
        """Written from the end, so that the first stays."""
        (token,) = self.saved
        dx = np.zeros((self.num_tokens, grad.shape[1]), grad.dtype)
        for n in reversed(range(len(token))):
            dx[token[n]] = grad[n]
        return dx, None


class AveragesTheCopies(Permute):
    """Divides by the number of copies. The chain rule adds them up; weights come in elsewhere."""

    def backward(self, grad: Any) -> Any:
        """A mean."""
        (token,) = self.saved
        copies = np.maximum(np.bincount(token, minlength=self.num_tokens), 1)[:, None].astype(grad.dtype)
        return super().backward(grad)[0] / copies, None


class AppliesThePermutationAgain(Permute):
    """dx = dr[token] gathers a second time. Backward goes the other way: it puts row n back to token[n]."""

    def backward(self, grad: Any) -> Any:
        """Where the inverse belongs."""
        (token,) = self.saved
        return np.resize(grad[token % max(len(grad), 1)], (self.num_tokens, grad.shape[1])), None


class ExpectsAPermutation(Permute):
    """dx = dr[argsort(token)], the inverse permutation: right if every token has one row, and only then."""

    def backward(self, grad: Any) -> Any:
        """The first T of the sorted rows."""
        (token,) = self.saved
        dx = np.zeros((self.num_tokens, grad.shape[1]), grad.dtype)
        rows = grad[np.argsort(token, kind="stable")][: self.num_tokens]
        dx[: len(rows)] = rows
        return dx, None


class AsManyTokensAsSeen(Permute):
    """Makes max(token) + 1 rows: a last token that was dropped has none. Forward must remember T."""

    def backward(self, grad: Any) -> Any:
        """Too short if the last were dropped."""
        (token,) = self.saved
        return super().backward(grad)[0][: int(token.max(initial=-1)) + 1], None


class AddsInFloat64(Permute):
    """Copies into np.zeros without a dtype, which is float64: every float32 row becomes twice as large."""

    def forward(self, x: Any, token: Any) -> Any:
        """Rows in a float64 buffer."""
        return super().forward(x, token).astype(np.float64)


NEXT = "dx_t is the sum of dr_n over all n with token[n] = t; zero if there is none"


CHECKS = (
    Check("one expert for each token", 2, top_1, "row n is a copy of x[token[n]]"),
    Check("several experts for each token", 2, top_k, "as many rows as `token` has entries"),
    Check("keeps float32", 1, float32(top_k), "a float32 input must give a float32 output"),
    Check("gradient of a permutation", 2, top_1, NEXT, gradient=True),
    Check("the gradients of all copies add up", 4, top_k, NEXT, gradient=True),
    Check("a dropped token gets a gradient of zero", 2, dropped, "begin with zeros for all T tokens", gradient=True),
    Check("gradient in float32", 1, float32(top_k), NEXT, gradient=True),
    Check("arrays with gaps", 1, strided(top_k), "do not rely on the order in memory"),
    Check("gradient of arrays with gaps", 1, strided(top_k), NEXT, gradient=True),
    Check("all tokens dropped", 1, empty, "no rows, and a gradient of zeros", gradient=True),
    Check(
        "known values",
        1,
        one_by_one(case(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, 0, 1]))),
        "by hand: [3, 4], [1, 2], [3, 4]",
    ),
)

MISTAKES = (
    ScattersForward,
    SortsTheTokens,
    OneCopyOfEach,
    LosesDuplicates,
    KeepsTheFirstCopy,
    AveragesTheCopies,
    AppliesThePermutationAgain,
    ExpectsAPermutation,
    AsManyTokensAsSeen,
    AddsInFloat64,
)
