"""Exercise 23: copies of tokens in the order of experts, and the gradients of all copies back."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

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
        "Forward is indexing with an array. For backward, take one token: how many rows were copies of it, and what "
        "did exercise 01 say about copies?",
        "dx has T rows, of which some get several gradients and some none. Forward must keep `token` and T; and "
        "`dx[token] += grad` does not add twice to one row.",
        "Forward: x[token], with self.save(token) and self.num_tokens = x.shape[0]. Backward: zeros, then "
        "np.add.at(dx, token, grad); return (dx, None).",
    ),
)


def specification(x: Any, token: Any) -> Any:
    r = np.zeros((len(token), x.shape[1]), x.dtype)
    for n, t in enumerate(token.tolist()):
        for i in range(x.shape[1]):
            r[n, i] = x[t, i]
    return r


def _case(rng: np.random.Generator, token: Any, d: int, num_tokens: int) -> Case:
    return case(rng.standard_normal((num_tokens, d)), np.asarray(token))


def top_1(rng: np.random.Generator) -> list[Case]:
    """One expert per token: a permutation, not its own inverse."""
    return [_case(rng, token, d, len(token)) for token, d in [([1, 3, 4, 0, 2], 3), ([2, 0, 1], 2), ([0], 1)]]


def top_k(rng: np.random.Generator) -> list[Case]:
    """Several experts per token, neighbouring copies too."""
    cases = [([1, 3, 0, 1, 2, 3, 0, 2], 3, 4), ([2, 0, 1, 0, 2, 1, 2, 1, 0], 4, 3), ([0, 0], 2, 1), ([1, 0, 1], 3, 2)]
    return [_case(rng, *c) for c in [*cases, ([3, 0, 2, 2, 1, 0, 3, 1], 3, 4), ([0, 0, 0], 2, 1)]]


def dropped(rng: np.random.Generator) -> list[Case]:
    """Tokens that no expert took: the first, one in the middle, the last."""
    return [_case(rng, *c) for c in [([2, 1, 2], 3, 3), ([0, 3, 0, 3], 2, 5), ([1, 0], 2, 4)]]


def narrow(rng: np.random.Generator) -> list[Case]:
    """Indices of few bits, for more rows than these can count."""
    return [
        _case(rng, rng.integers(0, 250, 300).astype(np.uint8), 2, 250),
        _case(rng, np.array([1, 0, 1], np.int32), 2, 2),
    ]


def large_and_small(rng: np.random.Generator) -> list[Case]:
    """Gradients of very different size."""
    token = np.array([1, 0, 2, 0, 1, 2])
    grad = rng.standard_normal((6, 3)) * np.array([1e-9, 1e9, 1.0])[token, None]
    return [_case(rng, token, 3, 3).upstream(grad)]


def many_tokens(rng: np.random.Generator) -> list[Case]:
    """More than 8 bits number, more copies of each than there are experts for usually, and many columns."""
    return [
        _case(rng, [299, 0, 260, 299, 0, 299], 2, 300),
        _case(rng, rng.integers(0, 2, 300), 3, 3),
        _case(rng, [1, 0, 1], 300, 2),
    ]


def neighbours(rng: np.random.Generator) -> list[Case]:
    """All tokens in their order, some of them, and one."""
    return [_case(rng, token, 3, 5) for token in ([0, 1, 2, 3, 4], [1, 2, 3], [2])]


def changed(solution: Any, x: Any, token: Any) -> Any:
    """The tokens after the rows were overwritten."""
    x = x.copy()
    rows = solution().forward(x, token)
    if rows.flags.writeable:
        rows += 1
    return x


EMPTY = one_by_one(case(np.ones((2, 3)), np.zeros(0, np.int64)))
KNOWN = one_by_one(case(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, 0, 1])))
NEXT = "dx_t is the sum of dr_n over all n with token[n] = t; zero if there is none"
CHECKS = (
    Check("one expert per token", 2, top_1, "row n is a copy of x[token[n]]"),
    Check("several experts per token", 2, top_k, "as many rows as `token` has entries"),
    Check("gradient of a permutation", 2, top_1, NEXT, gradient=True),
    Check("the gradients of all copies add up", 4, top_k, NEXT, gradient=True),
    Check(
        "gradients of very different size",
        1,
        large_and_small,
        "add each token's own rows only",
        gradient=True,
        finite_differences=False,
    ),
    Check("a dropped token gets a gradient of zero", 2, dropped, "begin with zeros for all T tokens", gradient=True),
    Check("tokens of any integer type", 1, narrow, "index with them; do not compute with them", gradient=True),
    Check(
        "many tokens, copies and columns",
        1,
        many_tokens,
        "a token's number can be larger than 65,535",
        gradient=True,
        finite_differences=False,
    ),
    Check(
        "rows are copies", 1, neighbours, "x[token] copies; x itself and x[a:b] do not", changed, second_oracle=False
    ),
    *standard_checks(top_k, gradient=NEXT),
    Check("all tokens dropped", 1, EMPTY, "no rows, and a gradient of zeros", gradient=True),
    Check("known values", 1, KNOWN, "by hand: [3, 4], [1, 2], [3, 4]"),
)

MISTAKES = edits("""
scatters forward: r[token[n]] = x[n] is the inverse. Row n is a copy of x[token[n]].
- return take_rows(x, token)
+ r = np.resize(x, (len(token), x.shape[1])); r[token] = r.copy(); return r
sorts the tokens: Copies in the order of tokens. `token` is already in the order of experts: leave it.
- take_rows(x, token)
+ take_rows(x, np.sort(token))
one copy of each: Copies every token once. A token that goes to two experts needs two rows.
- take_rows(x, token)
+ take_rows(x, token[np.sort(np.unique(token, return_index=True)[1])])
loses duplicates: NumPy reads dx[token] once and writes the last copy; the others are lost. Use np.add.at.
- np.add.at(y, index, rows)
+ y[index] += rows
keeps the first copy: Takes the gradient of each token's first copy. Every copy passes its gradient back: they add up.
- np.add.at(y, index, rows)
+ y[index[::-1]] = rows[::-1]
averages the copies: Divides by the number of copies. The chain rule adds them up; weights come in elsewhere.
- return y
+ return y / np.maximum(np.bincount(index, minlength=num_rows), 1)[:, None].astype(y.dtype)
applies the permutation again: Gathers a second time. Backward goes the other way: it puts row n back to token[n].
- return add_rows(grad, token, self.num_tokens)
+ return take_rows(grad, token)
expects a permutation: argsort(token) inverts a permutation: right only if every token has exactly one row.
- return add_rows(grad, token, self.num_tokens)
+ return np.resize(grad[np.argsort(token, kind="stable")], (self.num_tokens, grad.shape[1]))
as many tokens as seen: Makes max(token) + 1 rows: none for a last token that was dropped. Forward must remember T.
- add_rows(grad, token, self.num_tokens)
+ add_rows(grad, token, int(token.max(initial=-1)) + 1)
adds in float64: np.zeros without a dtype is float64: a float32 gradient becomes twice as large.
- np.zeros((num_rows, rows.shape[1]), rows.dtype)
+ np.zeros((num_rows, rows.shape[1]))
differences of a running sum: Beside a large gradient a small one has no digits left. Add per token.
- np.add.at(y, index, rows)
+ order = np.argsort(index, kind="stable")
+     sums = np.concatenate([np.zeros((1, rows.shape[1]), rows.dtype), np.cumsum(rows[order], axis=0)])
+     ends = np.searchsorted(index[order], np.arange(num_rows + 1))
+     y = (sums[ends[1:]] - sums[ends[:-1]]).astype(rows.dtype)
as many tokens as rows: Makes a gradient of N rows. x has T: forward must remember it.
- add_rows(grad, token, self.num_tokens)
+ add_rows(grad, token, max(len(token), int(token.max(initial=-1)) + 1))
keeps the tokens on the class: The next call overwrites them before this one runs backward. Use self.save.
- self.save(token)
+ type(self).token = token
- (token,) = self.saved
+ token = self.token
returns the input itself: Where nothing is to be moved it copies nothing: who writes to the rows writes to x.
- return take_rows(x, token)
+ return x if np.array_equal(token, np.arange(len(x))) else take_rows(x, token)
tokens in eight bits: There may be more than 256 tokens: uint8 wraps around.
- (token,) = self.saved
+ token = self.saved[0].astype(np.uint8)
eight copies at most: Adds the first copies only. How many experts a token has is for the router to decide.
- np.add.at(y, index, rows)
+ first = np.array([np.sum(index[:n] == t) < 8 for n, t in enumerate(index)], bool)
+     np.add.at(y, index[first], rows[first])
adds to one buffer: The zeros are made once and never again: gradients of earlier calls stay in it.
- y = np.zeros((num_rows, rows.shape[1]), rows.dtype)
+ y = buffers.setdefault((num_rows, rows.shape[1], rows.dtype), np.zeros((num_rows, rows.shape[1]), rows.dtype))
- @kernel
- def add_rows
+ buffers = {}
+ @kernel
+ def add_rows
""")
