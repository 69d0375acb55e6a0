"""Exercise 05: softmax, forward and backward."""

from typing import Any

import numpy as np

from ..drivers import forward
from ..exercise import Case, Check, Exercise, case, float32, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=5,
    name="softmax",
    title="Softmax, forward and backward",
    teaches="The first op whose outputs each depend on all inputs, and the shift that keeps exp from overflowing.",
    difficulty=2,
    minutes=20,
    needs=(1,),
    target="moe_numpy.ops.activations:Softmax",
    hints=(
        "Forward: softmax does not change when a constant is taken off every x. Which constant keeps exp in range?",
        "Backward: dy_i/dx_j = y_i (δ_ij - y_j). Multiply by dL/dy_i and sum over i; two terms remain.",
        "dx = y dy - y Σ dy y, the sum along self.axis with keepdims=True. Save y and the axis in forward.",
    ),
)


def specification(x: Any, *, axis: int = -1) -> Any:
    y = np.zeros(x.shape, x.dtype)
    lines = np.moveaxis(x, axis, -1)
    out = np.moveaxis(y, axis, -1)
    for index in np.ndindex(lines.shape[:-1]):
        top = max(lines[index])
        e = [np.exp(v - top) for v in lines[index]]
        for i, v in enumerate(e):
            out[(*index, i)] = v / sum(e)
    return y


def typical(rng: np.random.Generator) -> list[Case]:
    return [
        case(rng.standard_normal((3, 4))),
        case(rng.standard_normal((5, 2)), axis=0),
        case(rng.standard_normal((2, 3, 4)), axis=1),
        case(rng.standard_normal((2, 3, 4)), axis=-2),
        case(rng.standard_normal((2, 3, 2, 3)), axis=2),
        case(rng.standard_normal(6)),
        case(rng.standard_normal((1, 1))),
        case(rng.standard_normal((4, 3)), axis=np.int64(0)),
        case(rng.standard_normal((3, 3))),
        case(rng.standard_normal((3, 3)), axis=0),
    ]


def large(rng: np.random.Generator) -> list[Case]:
    """Logits whose exponential overflows or underflows, and masked ones."""
    x = rng.standard_normal((3, 4))
    masked = np.where(np.eye(3, 4, dtype=bool), -np.inf, x)
    rows = x + np.array([[1000.0], [0.0], [-1000.0]])
    peak = np.array([[0.0, 0.0, 0.0, 0.0, 2000.0], [-3000.0, 0.0, 0.0, 0.0, 0.0]])
    sure = np.array([[0.5, 8.0, 0.0, -1.0], [0.0, 0.0, 9.0, 0.0], [12.0, 20.0, 3.0, 0.0]])
    near = [case(x + 1000), case(x - 1000), case(x - 1e6), case(400 * x), case(100 + x), case(masked)]
    return [*near, case(rows), case(peak), case(sure), case(rows.T, axis=0)]


def empty_rows(rng: np.random.Generator) -> list[Case]:
    """A row where everything is masked, or one entry is NaN, beside others."""
    x = rng.standard_normal((4, 4))
    x[1], x[2, :2], x[3, 2] = -np.inf, -np.inf, np.nan
    return [case(x), case(x.T.copy(), axis=0)]


def logarithms(solution: Any, *args: Any, **settings: Any) -> Any:
    """They show how many digits of a small probability are right, and whether 0 is 0."""
    with np.errstate(divide="ignore"):
        return np.log(forward(solution, *args, **settings))


def small(rng: np.random.Generator) -> list[Case]:
    """Probabilities down to 1e-300, beside masked entries, whose probability is 0."""
    x = rng.standard_normal((4, 6)) - np.array([0.0, 20.0, 90.0, 300.0, 690.0, np.inf])
    return [case(x), case(x.T + 5000.0, axis=0)]


def larger(rng: np.random.Generator) -> list[Case]:
    return [
        case(rng.standard_normal((70, 33))),
        case(3 * rng.standard_normal((3, 300))),
        case(np.ones((130, 5)), axis=0),
    ]


def one_entry(rng: np.random.Generator) -> list[Case]:
    """Rows of one entry: 1, unless there is nothing to normalise."""
    return [
        case(np.array([[0.0], [-np.inf], [-1e9], [np.nan], [np.inf]])),
        case(np.array([1000.0, -1000.0])[None], axis=0),
    ]


NEXT = "write dL/dx_j = Σ_i dL/dy_i · dy_i/dx_j with dy_i/dx_j = y_i (δ_ij - y_j), and sum it up"
CHECKS = (
    Check("forward", 3, typical, "e^x over the sum of e^x along the axis, with keepdims=True"),
    Check("forward of large and masked logits", 2, large, "take the maximum along the axis off before exp"),
    Check("large logits in float32", 1, float32(large), "its exponential overflows at 89, not at 710"),
    Check("a row of only minus infinity is NaN", 1, empty_rows, "the maximum is -inf, and -inf - -inf is NaN"),
    Check("small probabilities", 1, small, "cut nothing off; result: ln y, -inf where x is -inf", run=logarithms),
    Check("a single entry", 1, one_entry, "e^x over e^x is 1, or NaN"),
    Check("gradient", 4, typical, NEXT, gradient=True),
    Check("gradient of large logits", 1, large, "y is all it needs", gradient=True, finite_differences=False),
    *standard_checks(typical, gradient=NEXT),
    Check("no rows at all", 1, one_by_one(case(np.zeros((0, 4)))), "(0, 4) in, (0, 4) out"),
    Check("known values", 1, one_by_one(case(np.log([1.0, 2.0, 5.0]))), "ln 1, ln 2, ln 5 give 1/8, 2/8, 5/8"),
    Check("larger arrays", 1, larger, "the size changes nothing", gradient=True, finite_differences=False),
)

MISTAKES = edits("""
overflows without shift: e¹⁰⁰⁰ overflows. Take the maximum off the logits first; it cancels.
- x - x.max(axis=-1, keepdims=True, initial=-np.inf)
+ x
always last axis: Ignores `axis` and normalises along the last one.
- array_namespace(x), one_axis(axis)
+ array_namespace(x), -1
normalizes over everything: Divides by the sum of the whole array instead of the sum along the axis.
- e.sum(axis=-1, keepdims=True)
+ e.sum()
- x.max(axis=-1, keepdims=True, initial=-np.inf)
+ x.max(initial=-np.inf)
computes in float64: Returns float64 for float32 input. Everything after it is then twice as large and half as fast.
- xp, axis = array_namespace(x), one_axis(axis)
+ xp, axis, x = array_namespace(x), one_axis(axis), x.astype(np.float64)
diagonal only: dx = g y (1 - y): only how y_i depends on x_i. Every y also depends on the other x, through the sum.
- y * (grad - (grad * y).sum(axis=-1, keepdims=True))
+ grad * y * (1 - y)
forgets the sum: dx = y dy: the term - y Σ dy y is missing. It subtracts the mean gradient, since the y sum to 1.
- y * (grad - (grad * y).sum(axis=-1, keepdims=True))
+ grad * y
sums over last axis: Backward sums over the last axis whatever `axis` was: forward must remember it.
- array_namespace(y), self.axis
+ array_namespace(y), -1
sums the gradient alone: dx = y (dy - Σ dy): the sum must be weighted with y: y (dy - Σ dy y).
- (grad * y).sum
+ grad.sum
ignores upstream: Backward takes ones for the gradient from above. Since Σ y = 1, that gives zero everywhere.
- y * (grad - (grad * y).sum(axis=-1, keepdims=True))
+ y * (1 - y.sum(axis=-1, keepdims=True))
subtracts in place: `x -= x.max()` writes into the caller's array. Write `x = x - ...`, which makes a new one.
- e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
+ x -= x.max(axis=-1, keepdims=True); e = np.exp(x)
one shift for all: Takes off the maximum of the whole array: rows far below it become 0/0. Each row needs its own.
- x.max(axis=-1, keepdims=True, initial=-np.inf)
+ x.max(initial=-np.inf)
shifts by the mean: One large logit lies far above the mean, and its exponential overflows. Take off the maximum.
- x.max(axis=-1, keepdims=True, initial=-np.inf)
+ x.mean(axis=-1, keepdims=True)
minus infinity made finite: A row of only -inf then comes out uniform. It has no softmax: NaN, as the docstring says.
- e = np.exp(x - x.max
+ x = np.maximum(x, np.finfo(x.dtype).min / 4); e = np.exp(x - x.max
hides an empty row: Turns the NaN of a row of only -inf into 0. The docstring says NaN: whoever masks all must see it.
- return e / e.sum(axis=-1, keepdims=True)
+ return np.nan_to_num(e / e.sum(axis=-1, keepdims=True))
spoils its output: `y *= ...` in backward changes what forward returned and saved; another op may still need it.
- (y,) = self.saved
+ (y,) = self.saved; np.multiply(y, 1, out=y); saved, y = y, y.copy(); saved *= grad
a small number for safety: Adds 1e-9 to the sum. After the shift it is at least 1, and the probabilities must sum to 1.
- e.sum(axis=-1, keepdims=True)
+ (e.sum(axis=-1, keepdims=True) + e.dtype.type(1e-6 if e.dtype == np.float32 else 1e-9))
only numbers of Python: Refuses an axis that is an integer of NumPy. SupportsIndex in the signature means any integer.
- xp, axis = array_namespace(x), one_axis(axis)
+ if type(axis) is not int:
+             raise TypeError("axis must be an int")
+         xp = array_namespace(x)
leaves NaN out: One NaN spoils the sum, and so its whole row. Left out, the error shows nowhere.
- x.max(axis=-1, keepdims=True, initial=-np.inf)
+ np.fmax.reduce(x, axis=-1, keepdims=True, initial=-np.inf)
- e.sum(axis=-1, keepdims=True)
+ np.nansum(e, axis=-1, keepdims=True)
shifts only beyond 700: float32 overflows at 89 already. The shift costs nothing: take it always.
- x.max(axis=-1, keepdims=True, initial=-np.inf)
+ (x.max(axis=-1, keepdims=True, initial=-np.inf) * (abs(x).max(axis=-1, keepdims=True) > 700))
any negative axis is the last: -2 is the last but one.
- self.axis = axis
+ self.axis = axis = max(axis, -1)
- xp.moveaxis(softmax(xp.moveaxis(x, axis, -1)), -1, axis)
+ xp.moveaxis(softmax(xp.moveaxis(x, max(axis, -1), -1)), -1, max(axis, -1))
cuts off far below: exp(-80) is small, and not 0: -inf must give exactly 0, and all others their own probability.
- np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
+ np.exp(np.maximum(x - x.max(axis=-1, keepdims=True, initial=-np.inf), -80))
one is certain: A single entry has the probability 1, but not where it is -inf or NaN.
- return e / e.sum(axis=-1, keepdims=True)
+ return e / e.sum(axis=-1, keepdims=True) if x.shape[-1] != 1 else np.ones_like(x)
very negative is masked: Takes logits below -10,000 for -∞. Only differences within a row count.
- np.exp(x - x.max
+ np.exp(np.where(x < -1e4, -np.inf, x) - x.max
no gradient when certain: Takes y > 0.999 for 1, whose gradient is 0. It is small there, not 0.
- return xp.moveaxis(dx, -1, axis)
+ return xp.moveaxis(dx, -1, axis) * (y < 0.999)
small is nothing: Takes probabilities below 1e-6 for 0. Their logarithm, and their gradient, would be lost.
- return e / e.sum(axis=-1, keepdims=True)
+ return np.where(e < 1e-6 * e.sum(axis=-1, keepdims=True), 0 * e, e / e.sum(axis=-1, keepdims=True))
""")
