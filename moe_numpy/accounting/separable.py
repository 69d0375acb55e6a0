"""Least squares where few parameters are not linear: these on a grid that closes in, the rest solved exactly.

Golub and Pereyra 1973, "The Differentiation of Pseudo-Inverses and Nonlinear Least Squares Problems Whose Variables
Separate": with the nonlinear parameters fixed, the best linear ones are known, and what is left depends on few numbers.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from ..typing import Array, Float

_ROUNDS = 18  # of the search: the last grid is 1500 times finer than the first
_PER_AXIS = 5
_SHRINK = 0.65
_RIDGE = 1e-13  # columns that cannot be told apart share a coefficient


def separable_least_squares(
    terms: Callable[..., Array], target: Float[Array, " n"], ranges: Sequence[tuple[float, float]], nonnegative: bool
) -> tuple[list[float], list[float]]:
    """The least Σ (X(a) c - y)² over nonlinear parameters a, each within its range, and linear ones c.

    In a round, each parameter has 5 values at equal distances from max(center - reach, low) to min(center + reach,
    high), and all combinations are tried, each with the best c. The best combination is the next center, and reach
    becomes 0.65 of what it was. The first center is the middle of the range, the first reach half of its width. There
    are 18 rounds. Of equal sums of squares the first counts, the values of the last parameter changing fastest.

    Args:
        terms: X: from arrays [m], one for each nonlinear parameter, to [m, n, p], the terms that c multiplies.
        target: y.
        ranges: the lowest and the highest value of each nonlinear parameter.
        nonnegative: whether no c may be negative. :func:`linear_least_squares` gives c and the sums of squares of m
            problems.

    Returns:
        a and c of the best combination of the last round.
    """
    low, high = (np.array(end, np.float64) for end in zip(*ranges, strict=True))
    center, reach = (low + high) / 2, (high - low) / 2
    for _ in range(_ROUNDS):
        axes = [
            np.linspace(max(c - r, a), min(c + r, b), _PER_AXIS)
            for c, r, a, b in zip(center, reach, low, high, strict=True)
        ]
        mesh = [axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")]
        linear, squares = linear_least_squares(terms(*mesh), target, nonnegative)
        best = int(squares.argmin())
        center, reach = np.array([axis[best] for axis in mesh]), reach * _SHRINK
    return center.tolist(), linear[best].tolist()


def linear_least_squares(x: Float[Array, "m n p"], y: Float[Array, " n"], nonnegative: bool) -> tuple[Array, Array]:
    """The least Σ (x c - y)² of m problems: coefficients c [m, p] and sums of squares [m].

    Non-negative ones are the best of those least-squares solutions on a subset of the columns that have no negative
    entry: with few columns, all subsets can be tried.
    """
    size, p = np.sqrt((x**2).sum(axis=1, keepdims=True)), x.shape[-1]
    scaled = x / size
    transposed = scaled.swapaxes(1, 2)
    normal, right, total = transposed @ scaled + _RIDGE * np.eye(p), transposed @ y, y @ y
    best, squares = np.zeros((len(x), p)), np.full(len(x), np.inf)
    subsets = [s for k in range(1, p + 1) for s in combinations(range(p), k)] if nonnegative else [tuple(range(p))]
    for subset in map(list, subsets):
        found = np.linalg.solve(normal[:, subset][:, :, subset], right[:, subset, None])[..., 0]
        error = total - (found * right[:, subset]).sum(axis=1)
        if nonnegative:
            error = np.where((found >= 0).all(axis=1), error, np.inf)
        better = error < squares
        squares = np.where(better, error, squares)
        whole = np.zeros_like(best)
        whole[:, subset] = found
        best = np.where(better[:, None], whole, best)
    return best / size[:, 0], squares
