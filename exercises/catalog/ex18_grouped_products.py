"""Exercise 18: the gradient of every expert's weights, from rows sorted by expert."""

from typing import Any

import numpy as np

from moe_numpy.moe.experts import grouped_product_weight_gradient

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=18,
    name="grouped_products",
    title="Grouped products: the gradient of the weights",
    teaches="The kernel in which most of a step is spent: one product for each expert, on as many rows as it got.",
    difficulty=2,
    minutes=15,
    needs=(15, 16),
    target="moe_numpy.moe.experts:grouped_product_weight_gradient",
    hints=(
        "Take one expert and one row: y = W x, so y_o = Σ_i W_oi x_i. What is dL/dW_oi?",
        "Each row gives the outer product of its dy and its x, and those of an expert's rows add up. A sum of outer "
        "products over rows is one matrix product: which of the two factors is transposed?",
        "With rows = slice(offsets[e], offsets[e + 1]): dw[e] = grad[rows].T @ x[rows], where dw begins as zeros of "
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


def typical(rng: np.random.Generator) -> list[Case]:
    """Groups of different sizes; as many outputs as inputs, more, fewer, one."""
    return [_groups(rng, *c) for c in [((3, 2), 2, 4), ((1, 4, 2), 3, 3), ((2, 5), 4, 1), ((6,), 1, 3), ((1,), 1, 1)]]


def unused(rng: np.random.Generator) -> list[Case]:
    """Experts without rows: the first, one in the middle, the last two."""
    return [_groups(rng, rows, 2, 3) for rows in [(0, 3, 2), (2, 0, 3), (3, 0, 0)]]


def empty(rng: np.random.Generator) -> list[Case]:
    """No rows at all."""
    return [_groups(rng, (0, 0), 2, 3)]


# Wrong solutions


def transposed(grad: Any, x: Any, offsets: Any) -> Any:
    """x dyᵀ instead of dy xᵀ. Weights are stored [out, in]: grad gives the rows, x the columns."""
    return grouped_product_weight_gradient(x, grad, offsets)


def keeps_the_last_row(grad: Any, x: Any, offsets: Any) -> Any:
    """Overwrites with each row (`=` for `+=`): all rows of an expert add to its gradient."""
    last = np.isin(np.arange(len(x)), offsets[1:] - 1)[:, None]
    return grouped_product_weight_gradient(grad * last, x, offsets)


def averages_over_rows(grad: Any, x: Any, offsets: Any) -> Any:
    """Divides by the expert's number of rows: a busy expert would learn no more than an idle one. It is a sum."""
    rows = np.maximum(np.diff(offsets), 1)[:, None, None].astype(x.dtype)
    return grouped_product_weight_gradient(grad, x, offsets) / rows


def product_of_sums(grad: Any, x: Any, offsets: Any) -> Any:
    """Multiplies the sum of dy with the sum of x. Each dy belongs to its own x: multiply first, then add."""
    dw = np.zeros((len(offsets) - 1, grad.shape[1], x.shape[1]), x.dtype)
    for e in range(len(dw)):
        rows = slice(offsets[e], offsets[e + 1])
        dw[e] = np.outer(grad[rows].sum(axis=0), x[rows].sum(axis=0))
    return dw


def all_rows_for_each_expert(grad: Any, x: Any, offsets: Any) -> Any:
    """Every expert gets the gradient of all rows. It answers for its own alone."""
    return np.repeat((grad.T @ x)[None], len(offsets) - 1, axis=0)


def assumes_equal_groups(grad: Any, x: Any, offsets: Any) -> Any:
    """Gives each expert N / E rows. How many an expert has is the router's choice: read `offsets`."""
    return grouped_product_weight_gradient(grad, x, np.linspace(0, len(x), len(offsets)).astype(int))


def includes_the_end(grad: Any, x: Any, offsets: Any) -> Any:
    """Counts the row offsets[e + 1] for expert e too: it is the first of the next one."""
    dw = np.zeros((len(offsets) - 1, grad.shape[1], x.shape[1]), x.dtype)
    for e in range(len(dw)):
        rows = slice(offsets[e], offsets[e + 1] + 1)
        dw[e] = grad[rows].T @ x[rows]
    return dw


def stops_at_an_empty_expert(grad: Any, x: Any, offsets: Any) -> Any:
    """Leaves the loop at the first expert without rows (`break` for `continue`): those after it stay zero."""
    unused = np.diff(offsets) == 0
    end = offsets[unused.argmax()] if unused.any() else offsets[-1]
    return grouped_product_weight_gradient(grad, x, np.minimum(offsets, end))


def only_experts_with_rows(grad: Any, x: Any, offsets: Any) -> Any:
    """Returns gradients of the experts that were used. An unused one has a gradient too: zero."""
    return grouped_product_weight_gradient(grad, x, np.unique(offsets))


def forgets_the_dtype(grad: Any, x: Any, offsets: Any) -> Any:
    """np.zeros without a dtype makes float64: the gradients of float32 weights take twice the memory."""
    return grouped_product_weight_gradient(grad.astype(np.float64), x.astype(np.float64), offsets)


CHECKS = (
    Check("each expert's own rows", 4, typical, "one expert alone: y = x Wᵀ. What is dL/dW, given dL/dy?"),
    Check("an unused expert gets zero", 3, unused, "begin with zeros for all experts, and let none end the loop"),
    Check("keeps float32", 1, float32(typical), "make the array of zeros in the dtype of x"),
    Check("arrays with gaps", 1, strided(typical), "do not rely on the order in memory"),
    Check("no rows at all", 1, empty, "zeros of shape (E, o, i)"),
    Check(
        "known values",
        1,
        one_by_one(
            case(
                np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]),
                np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
                np.array([0, 2, 3]),
            )
        ),
        "by hand: expert 0 gets [[1, 2], [6, 8]], expert 1 [[5, 6], [5, 6]]",
    ),
)

MISTAKES = (
    transposed,
    keeps_the_last_row,
    averages_over_rows,
    product_of_sums,
    all_rows_for_each_expert,
    assumes_equal_groups,
    includes_the_end,
    stops_at_an_empty_expert,
    only_experts_with_rows,
    forgets_the_dtype,
)
