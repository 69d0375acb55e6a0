"""Exercise 09: a finite-difference checker, graded with right and wrong gradients."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case
from ..mistakes import edits

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
        "Move one entry at a time by +h and -h, in a copy of x. The difference of L, over 2h, is dL/dx_i.",
        "With `numeric` filled for all entries: |analytic - numeric| ≤ 1e-5 · max |numeric|, everywhere. "
        "Compare the shapes first.",
    ),
)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_gradient(x: Any, c: Any) -> Any:
    y = softmax(x)
    return y * (c - (c * y).sum(axis=-1, keepdims=True))


def _off_in_one_entry(x: Any, c: Any) -> Any:
    g = 2 * x * c
    g[-1, -1] *= 1.5
    return g


ORDER = np.array([2, 0, 1])
FUNCTIONS = {  # f, a gradient to check, and the shape of x
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


def _check(name: str, points: int, next_step: str, *functions: str) -> Check:
    def cases(rng: np.random.Generator) -> list[Case]:
        return [case(f, rng.standard_normal(FUNCTIONS[f][2]), int(rng.integers(1000))) for f in functions]

    return Check(name, points, cases, next_step, run=verdict)


RIGHT = "central differences with h near 1e-5 are good to about 1e-9"
NEARLY = "1e-5, relative to the largest entry, and signs count"
CHECKS = (
    _check("accepts right gradients", 3, RIGHT, "square", "softmax", "sum", "scalar", "constant", "no entries"),
    _check("accepts them at any scale", 2, "compare relative to the largest entry", "tiny", "huge"),
    _check("refuses a zero gradient of softmax", 2, "Σ y is constant: a cotangent of ones hides it", "zero softmax"),
    _check("refuses a missing permutation", 2, "compare entry by entry", "no inverse permutation", "sums agree"),
    _check("refuses one wrong entry", 2, "look at every entry", "one entry off"),
    _check("refuses near misses", 2, NEARLY, "one percent off", "sign", "ignores upstream", "tiny and wrong"),
    _check("refuses another shape and NaN", 1, "no comparison with NaN is true", "shape", "nan"),
)

MISTAKES = edits("""
cotangent of ones: Weights the outputs with ones. The entries of a softmax sum to 1, so a gradient of zero passes.
- rng.standard_normal(np.shape(f(x)))
+ np.ones(np.shape(f(x)))
believes everything: Accepts every gradient.
- c = rng.standard_normal(np.shape(f(x)))
+ return True
looks at the first entry: Compares only one entry: a gradient that is wrong elsewhere passes.
- (np.abs(analytic - numeric) <= 1e-5 * largest).all()
+ (np.abs(analytic - numeric) <= 1e-5 * largest).ravel()[:1].all()
compares the sums: Compares the sums of both gradients: entries in the wrong order, or two errors that cancel, pass.
- (np.abs(analytic - numeric) <= 1e-5 * largest).all()
+ abs(np.sum(analytic) - numeric.sum()) <= 1e-5 * largest
absolute tolerance: Allows a fixed error of 1e-5: a tiny gradient may then be anything, and a huge one is never right.
- <= 1e-5 * largest
+ <= 1e-5
step too small: h = 1e-14: the difference of two nearly equal numbers is all rounding, and right gradients are refused.
- 1e-5 * max(1.0, abs(x[i]))
+ 1e-14
ignores signs: Compares absolute values: a flipped sign passes.
- np.abs(analytic - numeric)
+ np.abs(np.abs(analytic) - np.abs(numeric))
tolerance of a tenth: Allows ten percent. A wrong gradient can be nearly right: float64 differences are good to 1e-9.
- <= 1e-5 * largest
+ <= 0.1 * largest
""")
