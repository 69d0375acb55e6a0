"""Exercise 09: a finite-difference checker, graded with right and wrong gradients."""

from typing import Any

import numpy as np

from exercises.reference.gradient_check import gradient_is_right

from ..exercise import Case, Check, Exercise, case

EXERCISE = Exercise(
    number=9,
    name="gradient_check",
    title="Write a finite-difference checker",
    teaches="How to find a wrong gradient without knowing the right one, and what a weak checker lets pass.",
    difficulty=2,
    minutes=25,
    needs=(5,),
    target="exercises.reference.gradient_check:gradient_is_right",
    hints=(
        "Draw the cotangent c with rng.standard_normal; it makes one number L = Σ c · f(x) of all outputs.",
        "Move one entry at a time by +h and -h, in a copy of x. The difference of L over 2h is that entry's slope.",
        "With `numeric` filled for all entries: |analytic - numeric| ≤ 1e-5 · max |numeric|, everywhere. "
        "Compare the shapes first.",
    ),
)


def softmax(x: Any) -> Any:
    """Along the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_gradient(x: Any, c: Any) -> Any:
    """Y (c - Σ c y)."""
    y = softmax(x)
    return y * (c - (c * y).sum(axis=-1, keepdims=True))


def _off_in_one_entry(x: Any, c: Any) -> Any:
    g = 2 * x * c
    g[-1, -1] *= 1.5
    return g


ORDER = np.array([2, 0, 1])
FUNCTIONS = {  # what the checker is handed: f, its gradient, and the shape of x
    "square": (lambda x: x * x, lambda x, c: 2 * x * c, (3, 4)),
    "softmax": (softmax, softmax_gradient, (3, 4)),
    "sum": (lambda x: x.sum(axis=0), lambda x, c: np.broadcast_to(c, x.shape), (3, 4)),
    "tiny": (lambda x: 1e-9 * np.sin(x), lambda x, c: 1e-9 * np.cos(x) * c, (3, 4)),
    "huge": (lambda x: 1e9 * np.sin(x), lambda x, c: 1e9 * np.cos(x) * c, (3, 4)),
    "scalar": (lambda x: np.exp(x), lambda x, c: np.exp(x) * c, ()),
    "no entries": (lambda x: x * x, lambda x, c: 2 * x * c, (0, 4)),
    "constant": (lambda x: np.ones(2), lambda x, c: np.zeros(x.shape), (3,)),
    "zero softmax": (softmax, lambda x, c: np.zeros_like(x), (3, 4)),
    "no inverse permutation": (lambda x: x[ORDER], lambda x, c: c[ORDER], (3, 4)),
    "one entry off": (lambda x: x * x, _off_in_one_entry, (3, 4)),
    "one percent off": (lambda x: x * x, lambda x, c: 2.02 * x * c, (3, 4)),
    "sign": (lambda x: np.sin(x), lambda x, c: -np.cos(x) * c, (3, 4)),
    "ignores upstream": (lambda x: x * x, lambda x, c: 2 * x, (3, 4)),
    "tiny and wrong": (lambda x: 1e-9 * np.sin(x), lambda x, c: 2e-9 * np.cos(x) * c, (3, 4)),
    "sums agree": (lambda x: x * x, lambda x, c: np.flip(2 * x * c), (3, 4)),
    "shape": (lambda x: x.sum(axis=1), lambda x, c: c, (3, 4)),
    "nan": (lambda x: x * x, lambda x, c: np.full_like(x, np.nan), (3, 4)),
}


def verdict(solution: Any, name: str, x: Any, seed: int) -> Any:
    """Hand one function with a gradient to the checker."""
    f, gradient, _ = FUNCTIONS[name]
    return solution(f, gradient, x, np.random.default_rng(seed))


def specification(f: Any, gradient: Any, x: Any, rng: Any) -> bool:
    """One entry after the other, with the 4-point rule."""
    c = rng.standard_normal(np.shape(f(x)))
    analytic = gradient(x.copy(), c)
    if np.shape(analytic) != x.shape:
        return False
    slopes = []
    for i in np.ndindex(x.shape):
        values = []
        for steps in (-2, -1, 1, 2):
            moved = x.copy()
            moved[i] += steps * 1e-3
            values.append(c * (f(moved) - f(x)))
        a, b, d, e = (float(np.sum(v)) for v in values)
        slopes.append((8 * (d - b) - (e - a)) / 12e-3)
    largest = max(map(abs, slopes), default=0.0)
    return all(abs(analytic[i] - s) <= 1e-5 * largest for i, s in zip(np.ndindex(x.shape), slopes, strict=True))


def _handing(*names: str) -> Any:
    def cases(rng: np.random.Generator) -> list[Case]:
        return [case(name, rng.standard_normal(FUNCTIONS[name][2]), int(rng.integers(1000))) for name in names]

    return cases


# Wrong solutions


def _check(f: Any, gradient: Any, x: Any, c: Any, step: float = 1e-5) -> tuple[Any, Any]:
    numeric = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        numeric[i] = np.sum(c * (f(above) - f(below))) / (2 * step)
    return gradient(x.copy(), c), numeric


def _close(analytic: Any, numeric: Any) -> bool:
    if np.shape(analytic) != numeric.shape:
        return False
    return bool((np.abs(analytic - numeric) <= 1e-5 * np.abs(numeric).max(initial=0.0)).all())


def cotangent_of_ones(f: Any, gradient: Any, x: Any, rng: Any) -> bool:
    """Weights the outputs with ones. The entries of a softmax sum to 1, so a gradient of zero passes."""
    return _close(*_check(f, gradient, x, np.ones(np.shape(f(x)))))


def believes_everything(f: Any, gradient: Any, x: Any, rng: Any) -> bool:
    """Says yes to everything."""
    return True


def looks_at_the_first_entry(f: Any, gradient: Any, x: Any, rng: Any) -> bool:
    """Compares only one entry: a gradient that is wrong elsewhere passes."""
    analytic, numeric = _check(f, gradient, x, rng.standard_normal(np.shape(f(x))))
    if np.shape(analytic) != numeric.shape:
        return False
    return _close(np.ravel(analytic)[:1], numeric.ravel()[:1])


def compares_the_sums(f: Any, gradient: Any, x: Any, rng: Any) -> bool:
    """Compares the sums of both gradients: entries in the wrong order, or two errors that cancel, pass."""
    analytic, numeric = _check(f, gradient, x, rng.standard_normal(np.shape(f(x))))
    if np.shape(analytic) != numeric.shape:
        return False
    return bool(abs(np.sum(analytic) - numeric.sum()) <= 1e-5 * np.abs(numeric).max(initial=0.0))


def absolute_tolerance(f: Any, gradient: Any, x: Any, rng: Any) -> bool:
    """Allows a fixed error of 1e-5: a tiny gradient may then be anything, and a huge one is never right."""
    analytic, numeric = _check(f, gradient, x, rng.standard_normal(np.shape(f(x))))
    return np.shape(analytic) == numeric.shape and bool((np.abs(analytic - numeric) <= 1e-5).all())


def step_too_small(f: Any, gradient: Any, x: Any, rng: Any) -> bool:
    """h = 1e-14: the difference of two nearly equal numbers is all rounding, and right gradients are refused."""
    return _close(*_check(f, gradient, x, rng.standard_normal(np.shape(f(x))), step=1e-14))


def ignores_signs(f: Any, gradient: Any, x: Any, rng: Any) -> bool:
    """Compares absolute values: a flipped sign passes."""
    analytic, numeric = _check(f, gradient, x, rng.standard_normal(np.shape(f(x))))
    return _close(np.abs(analytic), np.abs(numeric))


def tolerance_of_a_tenth(f: Any, gradient: Any, x: Any, rng: Any) -> bool:
    """Allows ten percent. A wrong gradient can be nearly right: float64 differences are good to 1e-9."""
    analytic, numeric = _check(f, gradient, x, rng.standard_normal(np.shape(f(x))))
    if np.shape(analytic) != numeric.shape:
        return False
    return bool((np.abs(analytic - numeric) <= 0.1 * np.abs(numeric).max(initial=0.0)).all())


CHECKS = (
    Check(
        "accepts right gradients",
        3,
        _handing("square", "softmax", "sum", "scalar", "constant", "no entries"),
        "central differences with h near 1e-5 are good to about 1e-9",
        run=verdict,
    ),
    Check(
        "accepts them at any scale",
        2,
        _handing("tiny", "huge"),
        "compare relative to the largest entry",
        run=verdict,
    ),
    Check(
        "refuses a zero gradient of softmax",
        2,
        _handing("zero softmax"),
        "a cotangent of ones cannot see it: Σ y is constant",
        run=verdict,
    ),
    Check(
        "refuses a missing inverse permutation",
        2,
        _handing("no inverse permutation", "sums agree"),
        "compare entry by entry",
        run=verdict,
    ),
    Check("refuses one wrong entry", 2, _handing("one entry off"), "look at every entry", run=verdict),
    Check(
        "refuses what is nearly right",
        2,
        _handing("one percent off", "sign", "ignores upstream", "tiny and wrong"),
        "1e-5, relative to the largest entry, and signs count",
        run=verdict,
    ),
    Check("refuses another shape and NaN", 1, _handing("shape", "nan"), "no comparison with NaN is true", run=verdict),
)

MISTAKES = (
    cotangent_of_ones,
    believes_everything,
    looks_at_the_first_entry,
    compares_the_sums,
    absolute_tolerance,
    step_too_small,
    ignores_signs,
    tolerance_of_a_tenth,
)
assert EXERCISE.solution is gradient_is_right
