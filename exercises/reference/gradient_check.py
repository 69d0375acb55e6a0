"""A finite-difference checker as small as it can be."""

from collections.abc import Callable

import numpy as np

from moe_numpy.typing import Array, Float


def gradient_is_right(
    f: Callable[[Array], Array],
    gradient: Callable[[Array, Array], Array],
    x: Float[Array, "*shape"],
    rng: np.random.Generator,
) -> bool:
    """Whether ``gradient(x, c)`` is the derivative of L(x) = Σ c · f(x), by central differences in float64.

    dL/dx_i ≈ (L(x + h e_i) - L(x - h e_i)) / 2h, with a cotangent c drawn from ``rng``.

    Args:
        f: takes an array like x, returns an array of any shape.
        gradient: takes x and the cotangent c, of the shape of f(x); returns an array of x's shape.
        x: where to check, float64 of any shape, perhaps without entries. Left unchanged.
        rng: draws the cotangent.

    Returns:
        True if the shape is x's and every entry agrees to 1e-5, relative to the largest entry of the derivative.
    """
    c = rng.standard_normal(np.shape(f(x)))
    analytic = gradient(x.copy(), c)
    if np.shape(analytic) != x.shape:
        return False
    numeric = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        h = 1e-5 * max(1.0, abs(x[i]))
        above, below = x.copy(), x.copy()
        above[i] += h
        below[i] -= h
        numeric[i] = np.sum(c * (f(above) - f(below))) / (2 * h)
    largest = np.abs(numeric).max(initial=0.0)
    return bool((np.abs(analytic - numeric) <= 1e-5 * largest).all())
