"""Exercise 08: RMSNorm, forward and backward."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=8,
    name="rms_norm",
    title="RMSNorm",
    teaches="A normalisation couples all entries of a vector: its gradient has a term for the scale itself.",
    difficulty=2,
    minutes=25,
    needs=(5,),
    target="moe_numpy.ops.normalization:RMSNorm",
    hints=(
        "Write y_i = w_i x_i r with r = (mean x² + ε)^-½. An x_j reaches y_j directly, and every y_i through r.",
        "dr/dx_j = -r³ x_j / d. With h = g w: dx_j = r h_j + (Σ_i h_i x_i) dr/dx_j. Substitute x̂ = x r.",
        "Save x, r and w; x̂ = x r, h = grad * w. Then dx = r * (h - x̂ * mean(h x̂)), the mean over the last axis with "
        "keepdims=True; dw = Σ grad x̂ over all other axes.",
    ),
)


def specification(x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
    """Each vector divided by its own root mean square, times the weight."""
    if weight.shape != x.shape[-1:]:
        raise ValueError("length")
    y = np.zeros(x.shape, x.dtype)
    d = x.shape[-1]
    for index in np.ndindex(x.shape[:-1]):
        total = 0.0
        for i in range(d):
            total += x[(*index, i)] ** 2
        rms = (total / d + eps) ** 0.5
        for i in range(d):
            y[(*index, i)] = weight[i] * x[(*index, i)] / rms
    return y


def typical(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, *shape) for shape in [(3, 4), (4, 2), (2, 3, 2, 5), (1, 3), (5,), (3, 3), (3, 4)]]


def larger(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, 70, 33), _case(rng, 3, 300), _case(rng, 2, 3, 40, 65)]


def with_eps(rng: np.random.Generator) -> list[Case]:
    """A large ε, and an x² as small as ε."""
    return [_case(rng, 3, 4, eps=0.5), _case(rng, 2, 1, eps=0.3), _case(rng, 2, 5, scale=0.03, eps=1e-3)]


def zeros(rng: np.random.Generator) -> list[Case]:
    x = rng.standard_normal((3, 4))
    x[1] = 0.0
    return [case(x, rng.standard_normal(4), eps=0.1), case(np.zeros((2, 3)), rng.standard_normal(3), eps=0.1)]


def default_eps(rng: np.random.Generator) -> list[Case]:
    return [case(np.zeros((2, 3)), rng.standard_normal(3)), _case(rng, 2, 4, scale=1e-3)]


def zero_weight(rng: np.random.Generator) -> list[Case]:
    return [case(rng.standard_normal((3, 4)), np.array([1.5, 0.0, -2.0, 0.0])), case(np.ones((2, 3)), np.zeros(3))]


def scaled(rng: np.random.Generator) -> list[Case]:
    size = np.array([[1e-2], [1.0], [1e6]])
    return [case(rng.standard_normal((3, 4)) * size, rng.standard_normal(4))]


def without_eps(rng: np.random.Generator) -> list[Case]:
    """Nothing keeps these rows from being scaled to 1."""
    return [case(rng.standard_normal((3, 4)) * np.array([[1e-9], [1.0], [1e-5]]), rng.standard_normal(4), eps=0.0)]


def _case(rng: np.random.Generator, *shape: int, scale: float = 1.0, **settings: float) -> Case:
    return case(scale * rng.standard_normal(shape), rng.standard_normal(shape[-1]), **settings)


def not_a_number(rng: np.random.Generator) -> list[Case]:
    c = _case(rng, 3, 4)
    c.args[0][1, 2] = np.nan
    return [c]


def refused(rng: np.random.Generator) -> list[Case]:
    """Weights of another length, some of which would broadcast."""
    lengths = [(3, 4, 1), (3, 4, 3), (4, 2, 4), (3, 1, 3)]
    return [case(rng.standard_normal((rows, d)), rng.standard_normal(length)) for rows, d, length in lengths]


EMPTY = one_by_one(case(np.zeros((0, 4)), np.ones(4)))
BY_HAND = one_by_one(case(np.array([[1.0, 7.0]]), np.array([5.0, 10.0]), eps=0.0))
NEXT = "x enters in two ways: as x itself, and through r, which depends on all of x²"
CHECKS = (
    Check("forward", 2, typical, "the mean of x² over the last axis, with keepdims=True"),
    Check("eps is under the root", 1, with_eps, "√(mean x² + ε), not √(mean x²) + ε"),
    Check("zeros stay finite", 1, default_eps, "0 / √ε is 0"),
    Check("the size of x does not matter", 1, scaled, "each vector is divided by its own root mean square"),
    Check("small vectors without eps", 1, without_eps, "ε is what the caller says, and nothing else"),
    Check("NaN shows", 1, not_a_number, "NaN spoils its own vector, and no other"),
    Check("refuses a weight of another length", 1, refused, "ValueError; a weight of length 1 would broadcast"),
    Check("gradients", 4, typical, NEXT, gradient=True),
    Check("gradients with a large eps", 2, with_eps, "r and x̂ contain ε already: save and use them", gradient=True),
    Check("gradients where a weight is zero", 1, zero_weight, "do not divide by the weight", gradient=True),
    Check("gradients of any size", 1, scaled, "each vector has its own r", gradient=True),
    Check("gradients of zeros", 1, zeros, "at x = 0 only r h remains", gradient=True),
    *standard_checks(typical, gradient=NEXT),
    Check("no rows", 1, EMPTY, "the weight still needs a gradient: zeros", gradient=True),
    Check("the smallest example", 1, BY_HAND, "by hand: mean x² = 25, so x is divided by 5"),
    Check("larger arrays", 1, larger, "the size changes nothing", gradient=True, finite_differences=False),
)

MISTAKES = edits("""
takes off the mean: Centres x first: that is LayerNorm. RMSNorm leaves the mean where it is.
- y, r = rms_norm(x, weight, eps)
+ x = x - x.mean(axis=-1, keepdims=True); y, r = rms_norm(x, weight, eps)
- return rms_norm_gradient(grad, *self.saved)
+ dx, dw = rms_norm_gradient(grad, *self.saved); return dx - dx.mean(axis=-1, keepdims=True), dw
forgets the root: Divides by the mean square instead of its root: twice x then gives half of y.
- np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
+ ((x * x).mean(axis=-1, keepdims=True) + eps)
eps outside the root: x / (√(mean x²) + ε): ε belongs under the root, or the derivative at x = 0 would not exist.
- np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
+ (np.sqrt((x * x).mean(axis=-1, keepdims=True)) + eps)
forgets eps: Without ε a row of zeros becomes 0/0.
- np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
+ np.sqrt((x * x).mean(axis=-1, keepdims=True))
normalizes over everything: One mean square for the whole array. Each vector has its own: mean over the last axis.
- (x * x).mean(axis=-1, keepdims=True)
+ (x * x).mean(keepdims=True)
scale is a constant: dx = r h treats 1/rms as a constant. It depends on every x, which gives the term -x̂ mean(h x̂).
- dx = r * (h - x_hat * (h * x_hat).mean(axis=-1, keepdims=True))
+ dx = r * h
sums in the correction: x̂ Σ h x̂ should be x̂ mean(h x̂): the mean of forward has a 1/d that backward needs too.
- (h * x_hat).mean
+ (h * x_hat).sum
subtracts the mean gradient: Takes off mean h too, as in LayerNorm. That term comes from centring, which RMSNorm lacks.
- (h - x_hat
+ (h - h.mean(axis=-1, keepdims=True) - x_hat
forgets the weight: dx from g instead of h = g w: the gradient passes through the multiplication with w first.
- x_hat, h = x * r, grad * weight
+ x_hat, h = x * r, grad
weight gradient from x: dw = Σ dy x: the weight was multiplied with x̂, so x̂ belongs here.
- (grad * x_hat).reshape
+ (grad * x).reshape
weight gradient of one row: dw of the last vector only. All vectors share the weight: their gradients add up.
- (grad * x_hat).reshape(-1, x.shape[-1]).sum(axis=0)
+ (grad * x_hat).reshape(-1, x.shape[-1])[-1]
ignores upstream: Backward works with ones instead of the gradient from above.
- rms_norm_gradient(grad, *self.saved)
+ rms_norm_gradient(np.ones_like(grad), *self.saved)
computes in float64: Returns float64 for float32 input. Everything after it is then twice as large and half as fast.
- y, r = rms_norm(x, weight, eps)
+ x = x.astype(np.float64); y, r = rms_norm(x, weight, eps)
variance for mean square: The standard deviation takes off the mean inside the root. Use the mean of x².
- np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
+ np.sqrt(x.var(axis=-1, keepdims=True) + eps)
divides by the weight: Takes x̂ = y / w, which is 0/0 where a weight is 0. Save r and use x r.
- x_hat, h = x * r, grad * weight
+ x_hat, h = weight * x * r / weight, grad * weight
mean over all axes but the first: A batch of sequences has one mean square per vector: over the last axis only.
- (x * x).mean(axis=-1, keepdims=True)
+ (x * x).mean(axis=tuple(range(1, x.ndim)) if x.ndim > 1 else 0, keepdims=True)
another default: ε is 1e-6 here: 1e-5 changes every small vector.
- eps: float = 1e-6
+ eps: float = 1e-5
keeps the scale on the class: The next norm overwrites r before this one runs backward. Use self.save.
- self.save(x, r, weight)
+ type(self).kept = x, r, weight
- *self.saved
+ *self.kept
leaves NaN out: One NaN spoils its vector, and must show there. nanmean hides it from the other entries.
- (x * x).mean(axis=-1, keepdims=True)
+ np.nanmean(x * x, axis=-1, keepdims=True)
one weight for all entries: A weight of length 1 broadcasts. ValueError for any length but that of a vector.
- if x.ndim == 0 or vector.shape != x.shape[-1:]:
+ if x.ndim == 0 or vector.shape not in (x.shape[-1:], (1,)):
a floor under the root: A mean square below 1e-12 counts as 1e-12. ε is what keeps rows of zeros finite, and alone.
- (x * x).mean(axis=-1, keepdims=True)
+ np.maximum((x * x).mean(axis=-1, keepdims=True), x.dtype.type(1e-12))
""")
