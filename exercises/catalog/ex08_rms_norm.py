"""Exercise 08: RMSNorm, forward and backward."""

from typing import Any

import numpy as np

from moe_numpy.ops.normalization import RMSNorm

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

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
        "dr/dx_j = -r³ x_j / d. With h = g w: dx_j = r h_j + (Σ_i h_i x_i) dr/dx_j. Put x̂ = x r in.",
        "Save x̂, r and w. h = grad * w; dx = r * (h - x̂ * mean(h x̂)), the mean over the last axis with keepdims; "
        "dw = Σ grad x̂ over all other axes.",
    ),
)


def specification(x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
    """Each vector over its own root mean square, entry times weight."""
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
    """Not square, leading axes, vectors of one entry."""
    return [_case(rng, *shape) for shape in [(3, 4), (4, 2), (2, 3, 5), (1, 3), (5,), (3, 3)]]


def with_eps(rng: np.random.Generator) -> list[Case]:
    """An ε that cannot be overlooked, and vectors as small as ε."""
    return [
        _case(rng, 3, 4, eps=0.5),
        _case(rng, 2, 1, eps=0.3),
        _case(rng, 2, 5, scale=0.03, eps=1e-3),
    ]


def zeros(rng: np.random.Generator) -> list[Case]:
    """Rows of zeros: finite thanks to ε."""
    x = rng.standard_normal((3, 4))
    x[1] = 0.0
    return [case(x, rng.standard_normal(4), eps=0.1), case(np.zeros((2, 3)), rng.standard_normal(3), eps=0.1)]


def default_eps(rng: np.random.Generator) -> list[Case]:
    """Zeros and tiny rows with the default ε."""
    return [case(np.zeros((2, 3)), rng.standard_normal(3)), _case(rng, 2, 4, scale=1e-3)]


def scaled(rng: np.random.Generator) -> list[Case]:
    """Rows of very different size come out alike."""
    size = np.array([[1e-2], [1.0], [1e3]])
    return [case(rng.standard_normal((3, 4)) * size, rng.standard_normal(4))]


def empty(rng: np.random.Generator) -> list[Case]:
    """No rows: the weight's gradient is zero."""
    return [case(np.zeros((0, 4)), rng.standard_normal(4))]


def _case(rng: np.random.Generator, *shape: int, scale: float = 1.0, **settings: float) -> Case:
    return case(scale * rng.standard_normal(shape), rng.standard_normal(shape[-1]), **settings)


# Wrong solutions


def _mean(x: Any) -> Any:
    return x.mean(axis=-1, keepdims=True)


def _sum_rows(x: Any) -> Any:
    return x.reshape(-1, x.shape[-1]).sum(axis=0) if x.size else np.zeros(x.shape[-1], x.dtype)


class TakesOffTheMean(RMSNorm):
    """Centres x first: that is LayerNorm. RMSNorm leaves the mean where it is."""

    def forward(self, x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
        """LayerNorm."""
        return super().forward(x - _mean(x), weight, eps=eps)

    def backward(self, grad: Any) -> Any:
        """Of LayerNorm."""
        dx, dweight = super().backward(grad)
        return dx - _mean(dx), dweight


class ForgetsTheRoot(RMSNorm):
    """Divides by the mean square instead of its root: twice x then gives half of y."""

    def forward(self, x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
        """Without √."""
        super().forward(x, weight, eps=eps)
        return x / (_mean(x * x) + eps) * weight


class EpsOutsideTheRoot(RMSNorm):
    """x / (√(mean x²) + ε): ε belongs under the root. Its derivative at x = 0 would not exist otherwise."""

    def forward(self, x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
        """Added too late."""
        super().forward(x, weight, eps=eps)
        return x / (np.sqrt(_mean(x * x)) + eps) * weight


class ForgetsEps(RMSNorm):
    """Without ε a row of zeros becomes 0/0."""

    def forward(self, x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
        """ε = 0."""
        return super().forward(x, weight, eps=0.0)


class NormalizesOverEverything(RMSNorm):
    """One mean square for the whole array. Each vector has its own: mean over the last axis."""

    def forward(self, x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
        """One for all."""
        if not x.size:
            return super().forward(x, weight, eps=eps)
        r = np.broadcast_to(1 / np.sqrt((x * x).mean() + eps), (*x.shape[:-1], 1))
        self.save(x, r, weight)
        return x * r * weight


class ScaleIsAConstant(RMSNorm):
    """dx = r h: takes 1/rms for a constant. It depends on every x, which gives the term -x̂ mean(h x̂)."""

    def backward(self, grad: Any) -> Any:
        """Without the correction."""
        x, r, weight = self.saved
        x_hat = x * r
        return r * grad * weight, _sum_rows(grad * x_hat)


class SumsInTheCorrection(RMSNorm):
    """Takes off x̂ Σ h x̂ where the mean belongs: the mean of forward has a 1/d that backward needs too."""

    def backward(self, grad: Any) -> Any:
        """d times too large."""
        x, r, weight = self.saved
        x_hat = x * r
        h = grad * weight
        return r * (h - x_hat * (h * x_hat).sum(axis=-1, keepdims=True)), _sum_rows(grad * x_hat)


class SubtractsTheMeanGradient(RMSNorm):
    """Also takes off mean h, as LayerNorm's backward does. That term comes from centring, which RMSNorm does not do."""

    def backward(self, grad: Any) -> Any:
        """One term too many."""
        _, r, weight = self.saved
        dx, dweight = super().backward(grad)
        return dx - r * _mean(grad * weight), dweight


class ForgetsTheWeight(RMSNorm):
    """dx from g instead of h = g w: the gradient has passed through the multiplication with w first."""

    def backward(self, grad: Any) -> Any:
        """With w = 1."""
        x, r, _ = self.saved
        x_hat = x * r
        return r * (grad - x_hat * _mean(grad * x_hat)), _sum_rows(grad * x_hat)


class WeightGradientFromX(RMSNorm):
    """dw = Σ g x: the weight was multiplied with x̂, so x̂ belongs here."""

    def backward(self, grad: Any) -> Any:
        """Before normalisation."""
        x, r, _ = self.saved
        x_hat = x * r
        dx, _ = super().backward(grad)
        return dx, _sum_rows(grad * x_hat / r)


class WeightGradientOfOneRow(RMSNorm):
    """dw of the last vector only. All vectors share the weight: their gradients add up."""

    def backward(self, grad: Any) -> Any:
        """Overwrites."""
        x, r, _ = self.saved
        x_hat = x * r
        dx, dweight = super().backward(grad)
        return dx, (grad * x_hat).reshape(-1, grad.shape[-1])[-1] if grad.size else dweight


class IgnoresUpstream(RMSNorm):
    """Backward works with ones instead of the gradient from above."""

    def backward(self, grad: Any) -> Any:
        """As if L were Σ y."""
        return super().backward(np.ones_like(grad))


class ComputesInFloat64(RMSNorm):
    """Returns float64 for float32 input. One such op makes everything behind it twice as large and half as fast."""

    def forward(self, x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
        """Promotes."""
        return super().forward(x.astype(np.float64), weight, eps=eps)


CHECKS = (
    Check("forward", 2, typical, "the mean of x² over the last axis, with keepdims=True"),
    Check("eps is under the root", 1, with_eps, "√(mean x² + ε), not √(mean x²) + ε"),
    Check("zeros stay finite", 1, default_eps, "0 / √ε is 0"),
    Check("the size of x does not matter", 1, scaled, "each vector is divided by its own root mean square"),
    Check("gradients", 4, typical, "three places hold x: x itself, and r through all of x²", gradient=True),
    Check("gradients with a large eps", 2, with_eps, "r and x̂ contain ε already: save and use them", gradient=True),
    Check("gradients of zeros", 1, zeros, "at x = 0 only r h remains", gradient=True),
    Check("gradients in float32", 1, float32(typical), "everything stays float32", gradient=True),
    Check("float32", 1, float32(typical), "everything stays float32"),
    Check("arrays with gaps", 1, strided(typical), "leave x and weight as they are", gradient=True),
    Check("no rows", 1, empty, "the weight still needs a gradient: zeros", gradient=True),
    Check(
        "knows the smallest example",
        1,
        one_by_one(case(np.array([[1.0, 7.0]]), np.array([5.0, 10.0]), eps=0.0)),
        "by hand: mean x² = 25, so x is divided by 5",
    ),
)

MISTAKES = (
    TakesOffTheMean,
    ForgetsTheRoot,
    EpsOutsideTheRoot,
    ForgetsEps,
    NormalizesOverEverything,
    ScaleIsAConstant,
    SumsInTheCorrection,
    SubtractsTheMeanGradient,
    ForgetsTheWeight,
    WeightGradientFromX,
    WeightGradientOfOneRow,
    IgnoresUpstream,
    ComputesInFloat64,
)
