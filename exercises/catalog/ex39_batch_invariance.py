"""Exercise 39: the same bits in any company."""

from typing import Any

import numpy as np

from moe_numpy.formats.bfloat16 import BFloat16Matrix
from moe_numpy.formats.float32 import Float32Matrix
from moe_numpy.formats.int8 import Int8Matrix

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided
from ..mistakes import edits

EXERCISE = Exercise(
    number=39,
    name="batch_invariance",
    title="Batch invariance: the same bits in any company",
    teaches="A text must not change because others are generated beside it; a matrix product of all rows changes it.",
    difficulty=1,
    minutes=15,
    target="moe_numpy.formats.matrix:weight_product",
    hints=(
        "x @ W.T is right to a few bits. Which bits, BLAS decides from the shapes: it adds in another order for one "
        "row than for ten. How could every row be given the same shape, and so the same order?",
        "One product of the matrix with a vector for each row: a loop over x. Dequantise once, outside of the loop.",
        "weights = matrix.dequantise(dtype), with dtype float64 where x has it and float32 elsewhere; y = np.empty("
        "(len(x), matrix.shape[0]), x.dtype); y[n] = weights @ row for each row.",
    ),
)

FORMATS = {kind.format: kind for kind in (Float32Matrix, BFloat16Matrix, Int8Matrix)}


def product(solution: Any, x: Any, weights: Any, format: str = "float32") -> Any:
    """Store the weights, and call."""
    kind = FORMATS[format]
    return solution(x, kind(**kind.encode(np.ascontiguousarray(weights, np.float32))))


def in_company(solution: Any, x: Any, weights: Any, format: str = "float32") -> Any:
    """All rows together; and how far each row is from itself in other company, in units of the last place.

    Companies are: alone, each half, the rows backwards, every third row, all rows four times, and beside large ones.
    """
    kind, n = FORMATS[format], len(x)
    matrix = kind(**kind.encode(np.ascontiguousarray(weights, np.float32)))
    together = solution(x, matrix)
    drift = np.zeros(n)
    last_place = np.finfo(x.dtype).eps * np.abs(together).max(axis=1)
    everyone = np.arange(n)
    companies = [*everyone[:, None], everyone[: n // 2], everyone[n // 2 :], everyone[::-1], everyone[::3]]
    companies.append(np.repeat(everyone, 4))
    for rows in companies:
        y = solution(np.ascontiguousarray(x[rows]), matrix)
        np.maximum.at(drift, rows, np.abs(y - together[rows]).max(axis=1) / last_place[rows])
    beside = solution(np.concatenate([1000 * x, x]), matrix)[n:]
    np.maximum.at(drift, everyone, np.abs(beside - together).max(axis=1) / last_place)
    return together, drift


def specification(x: Any, matrix: Any) -> Any:
    """Term after term in floats of Python."""
    weights = matrix.dequantise(np.float64)
    y = np.zeros((len(x), matrix.shape[0]), x.dtype)
    for n, row in enumerate(x.tolist()):
        for o, w in enumerate(weights.tolist()):
            y[n, o] = sum(a * b for a, b in zip(row, w, strict=True))
    return y


def _case(rng: np.random.Generator, n: int, width: int, out: int, **settings: Any) -> Case:
    return case(rng.standard_normal((n, width)), rng.standard_normal((out, width)).astype(np.float32), **settings)


def typical(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, n, width, out) for n, width, out in ((3, 5, 2), (1, 7, 4), (6, 3, 3), (2, 1, 1), (3, 5, 2))]


def stored(rng: np.random.Generator) -> list[Case]:
    """Weights in eight and in sixteen bits."""
    return [
        _case(rng, 3, 64, 2, format="int8"),
        _case(rng, 2, 32, 5, format="int8"),
        _case(rng, 4, 6, 3, format="bfloat16"),
    ]


def companies(rng: np.random.Generator) -> list[Case]:
    """Rows so long that another order of sums shows in every row."""
    return [
        _case(rng, 10, 320, 12),
        _case(rng, 7, 257, 9),
        _case(rng, 12, 256, 8, format="int8"),
        _case(rng, 40, 96, 3),
        _case(rng, 12, 48, 5),
        _case(rng, 10, 320, 1),
    ]


def sparse(rng: np.random.Generator) -> list[Case]:
    """Rows with many zeros, in different places: what is zero in all rows changes with the company."""
    cases = [_case(rng, 6, 320, 9), _case(rng, 5, 200, 4, format="bfloat16")]
    return [case(c.args[0] * (rng.random(c.args[0].shape) < 0.3), c.args[1], **c.settings) for c in cases]


def halves(rng: np.random.Generator) -> list[Case]:
    """Rows of float16 whose weights, terms and sums are exact in float32 and not, or infinite, in float16."""
    x = np.array([[683, 2048, 1, 1, -2048, -2048], [300, 300, 60000, 60000, 1, 2], [1, 2, 3, 4, 5, 6]], np.float16)
    fine = [1, 1 + 2**-11, 1, 1, 1, 1]
    weights = np.array([[3, 1, 1, 1, 1, 1], [300, -300, 1, -1, 2, 1], [1, 1, 1, 1, 1, 1], fine], np.float32)
    return [case(x[[row]], weights[[of]]) for row, of in ((0, 0), (0, 2), (0, 3), (1, 1), (2, 2), (2, 0))]


def sizes(rng: np.random.Generator) -> list[Case]:
    """Rows of very different size: what they share, they must not share."""
    x = rng.standard_normal((5, 96)) * np.array([[1e-6], [1.0], [1e6], [0.0], [1.0]])
    x[4] = x[1]
    return [case(x, rng.standard_normal((4, 96)).astype(np.float32)), _case(rng, 9, 96, 4)]


EMPTY = one_by_one(
    case(np.zeros((0, 4)), np.ones((3, 4), np.float32)), case(np.zeros((2, 4)), np.ones((0, 4), np.float32))
)
BY_HAND = one_by_one(case(np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)))
CHECKS = (
    Check("the product", 3, typical, "y_n = W x_n: row n of y has an entry for each row of W", run=product),
    Check("weights in other formats", 2, stored, "matrix.dequantise gives the weights of any format", run=product),
    Check(
        "the same bits in any company", 4, companies, "one row at a time: no order may depend on len(x)", run=in_company
    ),
    Check("float32 in any company", 3, float32(companies), "the same in float32", run=in_company),
    Check("zeros in any company", 1, sparse, "add all terms of a row, those of zero too", run=in_company),
    Check("nothing is shared between rows", 2, sizes, "no scale, mean or maximum over rows", run=in_company),
    Check("float32", 1, float32(typical), "float32 in, float32 out; float64 in, float64 out", run=product),
    Check("float16", 1, halves, "computed in at least float32, and rounded to the type of x", run=product),
    Check("arrays with gaps", 1, strided(typical), "do not rely on the order in memory", run=product),
    Check("no rows", 1, EMPTY, "(N, out), whatever they are", run=product),
    Check("a product by hand", 1, BY_HAND, "[[11, 1], [-2.5, 0.5]]", run=product),
)

MISTAKES = edits("""
all rows at once: BLAS chooses the order of sums by the number of rows: the same row has other bits in other company.
- return y
+ return (x @ weights.T).astype(x.dtype)
many rows are another way: From eight rows on one product for all. The way must not depend on how many there are.
- return y
+ return y if len(x) < 8 else (x @ weights.T).astype(x.dtype)
rows in pairs: Multiplies two rows at a time: the last of an odd number goes alone, with other bits.
- return y
+ return np.concatenate([y[:0], *((x[i : i + 2] @ weights.T).astype(x.dtype) for i in range(0, len(x), 2))])
one scale for the call: Rounds x to 127 steps of the largest entry of all rows: a large row spoils the others.
- x.astype(_wide(x), copy=False)
+ np.rint(x * (2**40 / np.maximum(np.abs(x).max(initial=0), 1e-300))) / (2**40 / max(np.abs(x).max(initial=0), 1e-300))
mean taken off: Takes the mean of the call off and adds its product again. Each row then depends on all.
- y[n] = weights @ row
+ y[n] = weights @ (row - x.mean(axis=0).astype(row.dtype)) + weights @ x.mean(axis=0).astype(row.dtype)
always float32: Dequantises in float32 for float64 rows, and computes in it.
- enumerate(x.astype(_wide(x), copy=False))
+ enumerate(x.astype(np.float32))
- matrix.dequantise(_wide(x))
+ matrix.dequantise(np.float32)
always float64: Returns float64 whatever x was.
- dtype=x.dtype
+ dtype=np.float64
computed in float16: Computes in the type of x, even if that is float16. It is at least float32.
- matrix.dequantise(_wide(x))
+ matrix.dequantise(_wide(x)).astype(x.dtype)
- x.astype(_wide(x), copy=False)
+ x
float32 for float16: Returns what it computed in. The result has the type of x.
- dtype=x.dtype
+ dtype=_wide(x)
one row of weights: Adds in another order where W has one row, but not for a row alone.
- return y
+ return y if len(weights) != 1 or len(x) < 2 else np.add.accumulate(x * weights, axis=1, dtype=x.dtype)[:, -1:]
without zeros: Leaves out columns that are zero in every row of the call. Which ones these are depends on the company.
- y[n] = weights @ row
+ used = (x != 0).any(axis=0); y[n] = weights[:, used] @ row[used]
transposed: Gives [out, N]. Row n of y belongs to row n of x.
- return y
+ return y.T
codes without scales: Multiplies by what is stored. Only dequantise knows what it means.
- matrix.dequantise(_wide(x))
+ next(iter(matrix.arrays.values())).astype(_wide(x))
first row for all: Multiplies the first row each time.
- y[n] = weights @ row
+ y[n] = weights @ x[0].astype(_wide(x))
""")
