"""Exercise 09: a finite-difference checker, graded with right and wrong gradients."""

from typing import Any

import numpy as np

from ..exercise import Case, Cases, Check, Exercise, case, strided
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
    g[-1, -1] += 0.1 * np.abs(g).max()
    return g


def _off_by(part: float) -> Any:
    """Off in one entry by a part of the largest."""

    def gradient(x: Any, c: Any) -> Any:
        g = 2 * x * c
        g[0, 0] += part * np.abs(g).max()
        return g

    return gradient


def _forgets_one_entry(x: Any, c: Any) -> Any:
    g = 2 * x * c
    g[1, 2] = 0.0
    return g


def _nan_in_one_entry(x: Any, c: Any) -> Any:
    g = 2 * x * c
    g[0, 1] = np.nan
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
    "near zero": (lambda x: 1e8 * x * x, lambda x, c: 2e8 * x * c, (3, 4)),
    "cube": (lambda x: x**3, lambda x, c: 3 * x * x * c, (3, 4)),
    "flat spot": (lambda x: x**3, lambda x, c: 3 * x * x * c, (3, 4)),
    "at zero": (softmax, softmax_gradient, (3, 4)),
    "a column": (lambda x: x * x, lambda x, c: 2 * x * c, (3, 1)),
    "off among equals": (lambda x: (x * x).sum(), lambda x, c: c * (2 * x + 4e-5 * np.eye(1, 10)), (1, 10)),
    "its argument": (lambda x: x, lambda x, c: c, (3, 4)),
    "a view": (lambda x: x.T, lambda x, c: c.T, (3, 4)),
    "hardly off": (lambda x: x * x, _off_by(4e-6), (3, 4)),
    "slightly off": (lambda x: x * x, _off_by(1.6e-5), (3, 4)),
    "nan in one entry": (lambda x: x * x, _nan_in_one_entry, (3, 4)),
    "off by half a thousandth": (lambda x: x * x, _off_by(5e-4), (3, 4)),
    "off by two thousandths": (lambda x: x * x, _off_by(2e-3), (3, 4)),
    "off beside a large one": (lambda x: x * x, _off_by(5e-5), (3, 4)),
    "one row": (lambda x: x[0], lambda x, c: np.where(np.arange(3)[:, None] == 0, c, 0.0), (3, 4)),
    "one row, given to all": (lambda x: x[0], lambda x, c: np.tile(c, (3, 1)), (3, 4)),
    "one entry forgotten": (lambda x: x * x, _forgets_one_entry, (3, 4)),
    "no entries in another shape": (lambda x: x * x, lambda x, c: np.zeros((4, 0)), (0, 4)),
    "flat": (lambda x: x * x, lambda x, c: (2 * x * c).ravel(), (3, 4)),
    "transposed": (lambda x: x * x, lambda x, c: (2 * x * c).T, (3, 4)),
    "no inverse permutation of sums": (
        lambda x: x.sum(axis=1)[ORDER],
        lambda x, c: np.broadcast_to(c[ORDER][:, None], x.shape),
        (3, 4),
    ),
    "infinite": (lambda x: x * x, lambda x, c: np.full_like(x, np.inf), (3, 4)),
    "no number": (lambda x: np.where(x > 9, x, np.nan), lambda x, c: np.zeros_like(x), (3, 4)),
    "broadcasts": (lambda x: x.sum(axis=0), lambda x, c: c, (3, 4)),
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


def manner(solution: Any, name: str, x: Any, seed: int) -> Any:
    """The verdict, and whether one entry moved at a time, each both ways, and ``rng`` gave every cotangent."""
    f, gradient, _ = FUNCTIONS[name]
    points, cotangents = [], []

    def watched_f(point: Any) -> Any:
        points.append(point - x)
        return f(point)

    def watched_gradient(point: Any, c: Any) -> Any:
        cotangents.append(np.array(c))
        return gradient(point, c)

    rng = np.random.default_rng(seed)
    untouched = rng.bit_generator.state
    answer = solution(watched_f, watched_gradient, x, rng)
    moved = np.array(points).reshape(len(points), -1)
    one_by_one = bool(((moved != 0).sum(axis=1) <= 1).all())
    both_ways = bool((moved > 0).any(axis=0).all() and (moved < 0).any(axis=0).all())
    drawn = rng.bit_generator.state != untouched and all((c != 0).all() and np.ptp(c) > 0 for c in cotangents)
    return answer, one_by_one, both_ways, bool(drawn)


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


def _cases(*functions: str) -> Cases:
    def cases(rng: np.random.Generator) -> list[Case]:
        return [case(f, _point(f, rng), int(rng.integers(1000))) for f in functions]

    return cases


def _point(name: str, rng: np.random.Generator) -> Any:
    x = rng.standard_normal(FUNCTIONS[name][2])
    if name == "near zero":
        return 1e-4 * x
    if name in ("cube", "at zero"):
        x[0] = 0.0
    if name == "off among equals":
        return np.ones_like(x)
    if name == "flat spot":
        x[1, 1] = 0.0
    if name == "off beside a large one":
        x[-1, -1] = 1e4
    return x


def _check(name: str, points: int, next_step: str, *functions: str) -> Check:
    return Check(name, points, _cases(*functions), next_step, run=verdict)


ONE_ENTRY = ("one entry off", "one entry forgotten", "one row, given to all")
PERMUTED = ("no inverse permutation", "no inverse permutation of sums", "sums agree")
NEAR = (
    "hardly off",
    "slightly off",
    "off by half a thousandth",
    "off by two thousandths",
    "off beside a large one",
    "off among equals",
)
RIGHT = "central differences with h near 1e-5 are good to about 1e-9"
SHAPES, NOT_FINITE = (
    ("shape", "broadcasts", "flat", "transposed", "no entries in another shape"),
    ("nan", "nan in one entry", "infinite", "no number"),
)
MANNER = "f(x + h e_i) and f(x - h e_i) per entry; c has the shape of f(x) and comes from rng"
NEARLY = "1e-5, relative to the largest entry, and signs count"
CHECKS = (
    _check(
        "accepts right gradients",
        3,
        RIGHT,
        "square",
        "softmax",
        "sum",
        "one row",
        "scalar",
        "constant",
        "no entries",
        "a column",
    ),
    _check("accepts them at any scale", 2, "compare relative to the largest entry", "tiny", "huge"),
    _check("refuses a zero gradient of softmax", 2, "Σ y is constant: a cotangent of ones hides it", "zero softmax"),
    _check("refuses a missing permutation", 2, "compare entry by entry", *PERMUTED),
    _check("refuses one wrong entry", 2, "look at every entry", *ONE_ENTRY),
    _check("refuses near misses", 2, NEARLY, "one percent off", "sign", "ignores upstream", "tiny and wrong"),
    _check("refuses another shape", 1, "compare the shapes first: arrays of other shapes may broadcast", *SHAPES),
    _check("refuses NaN and infinity", 1, "no comparison with NaN is true", *NOT_FINITE),
    _check(
        "accepts what lies near zero",
        1,
        "central differences; relative to the largest entry",
        "near zero",
        "at zero",
        "cube",
        "flat spot",
    ),
    _check("accepts views of x", 1, "f may return its own argument: move a copy", "its argument", "a view"),
    _check("allows 1e-5 of the largest entry", 1, NEARLY, *NEAR),
    Check("one entry at a time, both ways", 1, _cases("square", "softmax"), MANNER, run=manner, second_oracle=False),
    Check("arrays with gaps", 1, strided(_cases("square", "softmax", "one entry off")), "index as x is", run=verdict),
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
forward differences: Moves up only: the error is h f″/2, that of a central difference h² f‴/6.
- (f(above) - f(below))) / (2 * h)
+ (f(above) - f(x))) / h
- 1e-5 * max(1.0, abs(x[i]))
+ 1e-7 * max(1.0, abs(x[i]))
one random direction: Compares along one direction: a small error in one entry is lost among the others.
- c = rng.standard_normal(np.shape(f(x)))
+ c, v = rng.standard_normal(np.shape(f(x))), rng.standard_normal(x.shape)
-     numeric = np.zeros(x.shape)
+     d = np.sum(c * (f(x + 1e-6 * v) - f(x - 1e-6 * v))) / 2e-6
+     return bool(abs(np.sum(analytic * v) - d) <= 1e-5 * max(abs(d), np.abs(analytic).max(initial=0)))
one output only: All entries of the cotangent but one are 0: a mistake in the other outputs goes unnoticed.
- c = rng.standard_normal(np.shape(f(x)))
+ c = np.zeros(np.shape(f(x))); c.flat[:1] = rng.standard_normal(1)
draws elsewhere: Makes a generator of its own: the cotangent must come from `rng`, or nothing can be repeated.
- rng.standard_normal(np.shape(f(x)))
+ np.random.default_rng(1).standard_normal(np.shape(f(x)))
looks for large differences: No comparison with NaN is true: a NaN is not larger either. Ask for `<=` everywhere.
- bool((np.abs(analytic - numeric) <= 1e-5 * largest).all())
+ not bool((np.abs(analytic - numeric) > 1e-5 * largest).any())
lets the shape broadcast: A gradient of another shape may broadcast and agree. Compare the shapes first.
- np.shape(analytic) != x.shape
+ analytic is None
moves x itself: Writes into x and leaves it changed. Move an entry of a copy.
- above, below = x.copy(), x.copy()
+ above, below = x, x.copy()
relative to each entry: An entry of 0 then allows no error at all: right gradients are refused.
- 1e-5 * largest)
+ 1e-5 * np.abs(numeric))
relative to the sum: The sum grows with the number of entries, and so does the error that it allows.
- np.abs(numeric).max(initial=0.0)
+ np.abs(numeric).sum()
writes into a flat copy: reshape(-1) of an array stored column by column is a copy: moving it moves nothing.
- above, below = x.copy(), x.copy()
+ above, below = np.array(x), np.array(x)
- above[i] += h
+ above.reshape(-1)[int(np.ravel_multi_index(i, x.shape)) if i else 0] += h
compares sizes: An array of another shape can have as many entries. Compare the shapes.
- np.shape(analytic) != x.shape:
-         return False
+ np.size(analytic) != x.size:
+         return False
+     analytic = np.reshape(analytic, x.shape)
one number for all outputs: Weights all outputs alike: where they are exchanged, nothing changes. Draw one for each.
- rng.standard_normal(np.shape(f(x)))
+ np.full(np.shape(f(x)), rng.standard_normal())
tolerance of a thousandth: Allows 1e-3 where 1e-5 is asked for.
- <= 1e-5 * largest
+ <= 1e-3 * largest
mean of the errors: One wrong entry is lost among many right ones. Every entry must agree.
- (np.abs(analytic - numeric) <= 1e-5 * largest).all()
+ np.abs(analytic - numeric).sum() <= 1e-5 * largest * x.size
looks where the derivative is: Leaves out the entries whose derivative is 0: there a gradient may then be anything.
- (np.abs(analytic - numeric) <= 1e-5 * largest).all()
+ (np.abs(analytic - numeric)[numeric != 0] <= 1e-5 * largest).all()
looks where the gradient is: Leaves out the entries that are 0 in the gradient: one that was forgotten passes.
- (np.abs(analytic - numeric) <= 1e-5 * largest).all()
+ (np.abs(analytic - numeric) <= 1e-5 * largest)[analytic != 0].all() and bool(np.any(analytic) or not largest)
nothing is right at once: Accepts what has no entries without a look at its shape.
- c = rng.standard_normal(np.shape(f(x)))
+ if x.size == 0:
+         return True
+     c = rng.standard_normal(np.shape(f(x)))
relative to the norm: The norm grows with the number of entries, and so does the error that it allows.
- largest = np.abs(numeric).max(initial=0.0)
+ largest = np.linalg.norm(numeric)
a step of x: At x = 0 a step of 1e-5 x is none. h = 1e-5 · max(1, |x|).
- h = 1e-5 * max(1.0, abs(x[i]))
+ h = 1e-5 * abs(x[i]) + 1e-300
relative to each row: A row whose derivative is 0 then allows no error at all: right gradients are refused.
- np.abs(numeric).max(initial=0.0)
+ np.abs(np.atleast_1d(numeric)).max(initial=0.0, axis=-1, keepdims=True)
""")
