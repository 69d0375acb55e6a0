"""Exercise 18: the gradient of every expert's weights, from rows sorted by expert."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=18,
    name="grouped_products",
    title="Grouped products: the gradient of the weights",
    teaches="The kernel that takes most of a training step: one matrix multiplication per expert, on its own rows.",
    difficulty=2,
    minutes=15,
    needs=(15, 16),
    target="moe_numpy.moe.experts:grouped_product_weight_gradient",
    hints=(
        "Take one expert and one row: y = W x, so y_o = Σ_i W_oi x_i. What is dL/dW_oi?",
        "Each row gives the outer product of its dy and its x, and those of an expert's rows add up. A sum of outer "
        "products over rows is one matrix multiplication: which of the two factors is transposed?",
        "With rows = slice(offsets[e], offsets[e + 1]): dw[e] = grad[rows].T @ x[rows], where dw starts as zeros of "
        "shape (len(offsets) - 1, grad.shape[1], x.shape[1]) in x.dtype.",
    ),
)


def specification(grad: Any, x: Any, offsets: Any) -> Any:
    """Add each row's part to each weight of its expert."""
    dw = np.zeros((len(offsets) - 1, grad.shape[1], x.shape[1]), x.dtype)
    for e in range(len(offsets) - 1):
        for n in range(offsets[e], offsets[e + 1]):
            for o in range(grad.shape[1]):
                for i in range(x.shape[1]):
                    dw[e, o, i] += grad[n, o] * x[n, i]
    return dw


def _groups(rng: np.random.Generator, rows: tuple[int, ...], o: int, i: int) -> Case:
    n = sum(rows)
    return case(rng.standard_normal((n, o)), rng.standard_normal((n, i)), np.cumsum([0, *rows]))


SIZES = [((3, 2), 2, 4), ((1, 4, 2), 3, 3), ((2, 5), 4, 1), ((6,), 1, 3), ((1,), 1, 1), ((3, 2), 3, 3)]


def typical(rng: np.random.Generator) -> list[Case]:
    """As many outputs as inputs, more, fewer, one."""
    return [_groups(rng, *c) for c in SIZES]


def unused(rng: np.random.Generator) -> list[Case]:
    """Experts without rows: the first, one in the middle, the last two."""
    return [_groups(rng, rows, 2, 3) for rows in [(0, 3, 2), (2, 0, 3), (3, 0, 0)]]


def large_and_small(rng: np.random.Generator) -> list[Case]:
    """Experts whose rows have very different sizes."""
    c = _groups(rng, (2, 3, 2), 3, 2)
    return [
        case(c.args[0] * np.repeat(sizes, (2, 3, 2))[:, None], *c.args[1:])
        for sizes in ([1e9, 1.0, 1e-6], [1e-12, 1e-20, 1e-9])
    ]


def rows_of_nobody(rng: np.random.Generator) -> list[Case]:
    """Rows behind the last expert's, some of them infinite."""
    cases = []
    for rows, o, i in [((3, 2, 2), 2, 4), ((0, 4, 0, 3), 3, 3), ((2, 0, 5), 1, 2), ((4, 3), 2, 3)]:
        c = _groups(rng, rows, o, i)
        grad = c.args[0].copy()
        grad[-1] = np.inf
        cases += [case(g, c.args[1], c.args[2][:-1]) for g in (c.args[0], grad)]
    return cases


def offsets_of_few_bits(rng: np.random.Generator) -> list[Case]:
    c = _groups(rng, (2, 0, 3, 1), 3, 2)
    return [case(*c.args[:2], c.args[2].astype(t)) for t in (np.int32, np.uint8)]


def many_rows(rng: np.random.Generator) -> list[Case]:
    """More rows, or experts, than integers of few bits can count."""
    return [_groups(rng, rows, 1, 2) for rows in [(300, 0, 20), (4, 33_000), (1,) * 300]]


_NO_ROWS = case(np.zeros((0, 2)), np.zeros((0, 3)), np.array([0, 0, 0]))
EMPTY = one_by_one(_NO_ROWS, _NO_ROWS.float32())
BY_HAND = one_by_one(
    case(
        np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]),
        np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        np.array([0, 2, 3]),
    )
)
CHECKS = (
    Check("each expert's own rows", 4, typical, "one expert alone: y = x Wᵀ. What is dL/dW, given dL/dy?"),
    Check("rows of very different size", 1, large_and_small, "add each expert's own rows only"),
    Check("offsets of any integer type", 1, offsets_of_few_bits, "use them as the ends of slices"),
    Check("many rows", 1, many_rows, "an offset can be larger than 32,767"),
    Check("rows of nobody", 1, rows_of_nobody, "the last expert's rows end at offsets[-1], not at N"),
    Check("an unused expert gets zero", 3, unused, "start with zeros for all experts, and let none end the loop"),
    *standard_checks(typical),
    Check("no rows at all", 1, EMPTY, "zeros of shape (E, o, i)"),
    Check("known values", 1, BY_HAND, "by hand: expert 0 gets [[1, 2], [6, 8]], expert 1 [[5, 6], [5, 6]]"),
)

MISTAKES = edits("""
transposed: x dyᵀ instead of dy xᵀ. Weights are stored [out, in]: grad gives the rows, x the columns.
- grad[rows].T @ x[rows]
+ x[rows].T @ grad[rows]
keeps the last row: Overwrites with each row: `=` for `+=`. All rows of an expert add to its gradient.
- grad[rows].T @ x[rows]
+ grad[rows][-1:].T @ x[rows][-1:]
averages over rows: Divides by the expert's number of rows: a busy expert would learn no more than an idle one.
- grad[rows].T @ x[rows]
+ grad[rows].T @ x[rows] / max(len(x[rows]), 1)
product of sums: Multiplies the sum of dy with the sum of x. Each dy belongs to its own x: multiply first, then add.
- grad[rows].T @ x[rows]
+ np.outer(grad[rows].sum(axis=0), x[rows].sum(axis=0))
all rows for each expert: Every expert gets the gradient of all rows. Only its own rows belong to it.
- grad[rows].T @ x[rows]
+ grad.T @ x
assumes equal groups: Gives each expert N / E rows. The router decides how many an expert has: read `offsets`.
- rows_of_experts(offsets)
+ rows_of_experts(np.linspace(0, len(x), len(offsets)).astype(int))
includes the end: Counts row offsets[e + 1] for expert e too. It is the first row of the next expert.
- grad[rows].T @ x[rows]
+ grad[rows.start : rows.stop + 1].T @ x[rows.start : rows.stop + 1]
stops at an empty expert: Leaves the loop at the first expert without rows: `break` where `continue` belongs.
- rows_of_experts(offsets)
+ rows_of_experts(np.minimum(offsets, np.append(offsets[1:][np.diff(offsets) == 0], len(x))[0]))
only experts with rows: Returns the gradients of the experts that were used. An unused one has a gradient too: zero.
- rows_of_experts(offsets)
+ rows_of_experts(np.unique(offsets))
forgets the dtype: np.zeros without a dtype makes float64: twice the memory for the gradients of float32 weights.
- rows_of_experts(offsets)])
+ rows_of_experts(offsets)], dtype=float)
differences of a running sum: Beside an expert with large rows a small one has no digits left. Add per expert.
- return np.stack([grad[rows].T @ x[rows] for rows in rows_of_experts(offsets)])
+ sums = np.zeros((len(x) + 1, grad.shape[1], x.shape[1]), x.dtype)
+     sums[1:] = np.cumsum(grad[:, :, None] * x[:, None], axis=0)
+     return np.diff(sums[offsets], axis=0)
offsets in eight bits: There may be more than 255 rows: uint8 wraps around.
- rows_of_experts(offsets)
+ rows_of_experts(offsets.astype(np.uint8))
offsets in sixteen bits: There may be more than 32,767 rows: int16 wraps around.
- rows_of_experts(offsets)
+ rows_of_experts(offsets.astype(np.int16))
last expert takes the rest: Ends the last expert at N. Rows behind offsets[E] belong to nobody.
- rows_of_experts(offsets)
+ rows_of_experts(np.append(offsets[:-1], len(x)))
rounds tiny gradients away: A gradient below 1e-12 is not 0: an optimizer may divide by its size.
- return np.stack([grad[rows].T @ x[rows] for rows in rows_of_experts(offsets)])
+ dw = np.stack([grad[rows].T @ x[rows] for rows in rows_of_experts(offsets)])
+     return np.where(abs(dw) < 1e-12, 0, dw).astype(dw.dtype)
offsets as counts: Takes offsets for the number of rows of each expert. They are where its rows begin.
- rows_of_experts(offsets)
+ [slice(int(sum(offsets[1 : e + 1])), int(sum(offsets[1 : e + 2]))) for e in range(len(offsets) - 1)]
leaves out the last row: Ends one row early: Python's slices leave the end out already.
- grad[rows].T @ x[rows]
+ grad[rows][:-1].T @ x[rows][:-1]
sum of absolute values: Signs of gradients cancel, and must.
- grad[rows].T @ x[rows]
+ np.abs(grad[rows].T) @ np.abs(x[rows])
""")
