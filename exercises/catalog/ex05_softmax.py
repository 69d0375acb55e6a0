"""Exercise 05: softmax, forward and backward."""

from typing import Any

import numpy as np

from moe_numpy.ops.activations import Softmax

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

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
        "Backward: dy_i/dx_j = y_i (δ_ij - y_j). Multiply with g_i and sum over i; two terms remain.",
        "dx = y g - y Σ g y, the sum along self.axis with keepdims=True. Save y and the axis in forward.",
    ),
)


def specification(x: Any, *, axis: int = -1) -> Any:
    """For each line along the axis: exponentiate and divide by the sum."""
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
    """Not square, not only the last axis, and a single entry."""
    return [
        case(rng.standard_normal((3, 4))),
        case(rng.standard_normal((5, 2)), axis=0),
        case(rng.standard_normal((2, 3, 4)), axis=1),
        case(rng.standard_normal((2, 3, 4)), axis=-1),
        case(rng.standard_normal(6)),
        case(rng.standard_normal((1, 1))),
    ]


def large(rng: np.random.Generator) -> list[Case]:
    """Logits whose exponential overflows or underflows, and masked ones."""
    x = rng.standard_normal((3, 4))
    masked = np.where(np.eye(3, 4, dtype=bool), -np.inf, x)
    return [case(x + 1000), case(x - 1000), case(400 * x), case(masked)]


def empty(rng: np.random.Generator) -> list[Case]:
    """No rows."""
    return [case(np.zeros((0, 4)))]


# Wrong solutions


class OverflowsWithoutShift(Softmax):
    """Exponentiates the logits as they are: e¹⁰⁰⁰ overflows. Take the maximum off first; it cancels."""

    def forward(self, x: Any, *, axis: int = -1) -> Any:
        """Without the shift."""
        y = np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)
        self.axis = axis
        self.save(y)
        return y


class AlwaysLastAxis(Softmax):
    """Ignores `axis` and normalises along the last one."""

    def forward(self, x: Any, *, axis: int = -1) -> Any:
        """Wherever axis points."""
        return super().forward(x, axis=-1)


class NormalizesOverEverything(Softmax):
    """Divides by the sum of the whole array instead of the sum along the axis."""

    def forward(self, x: Any, *, axis: int = -1) -> Any:
        """One sum for all."""
        y = np.exp(x - x.max(initial=-np.inf))
        y = y / y.sum()
        self.axis = axis
        self.save(y)
        return y


class ComputesInFloat64(Softmax):
    """Returns float64 for float32 input. One such op makes everything behind it twice as large and half as fast."""

    def forward(self, x: Any, *, axis: int = -1) -> Any:
        """Promotes."""
        return super().forward(x.astype(np.float64), axis=axis)


class DiagonalOnly(Softmax):
    """dx = g y (1 - y): only how y_i depends on x_i. Every y also depends on the other x, through the sum."""

    def backward(self, grad: Any) -> Any:
        """Without the off-diagonal terms."""
        (y,) = self.saved
        return grad * y * (1 - y)


class ForgetsTheSum(Softmax):
    """dx = y g: the term - y Σ g y is missing. It takes off the mean gradient, since the y sum to 1."""

    def backward(self, grad: Any) -> Any:
        """Without the correction."""
        (y,) = self.saved
        return grad * y


class SumsOverLastAxis(Softmax):
    """Backward sums over the last axis whatever `axis` was: forward must remember it."""

    def backward(self, grad: Any) -> Any:
        """Along the wrong axis."""
        (y,) = self.saved
        gy = grad * y
        return gy - y * gy.sum(axis=-1, keepdims=True)


class SumsTheGradientAlone(Softmax):
    """dx = y (g - Σ g): the sum must be weighted with y. (y (g - Σ g y))."""

    def backward(self, grad: Any) -> Any:
        """An unweighted sum."""
        (y,) = self.saved
        return y * (grad - grad.sum(axis=self.axis, keepdims=True))


class IgnoresUpstream(Softmax):
    """Backward multiplies with ones instead of the gradient from above: Σ y = 1 then makes it zero everywhere."""

    def backward(self, grad: Any) -> Any:
        """As if L were Σ y."""
        (y,) = self.saved
        return y - y * y.sum(axis=self.axis, keepdims=True)


class SubtractsInPlace(Softmax):
    """`x -= x.max()` writes into the caller's array. Write `x = x - ...`, which makes a new one."""

    def forward(self, x: Any, *, axis: int = -1) -> Any:
        """Writes to x."""
        x -= x.max(axis=axis, keepdims=True)
        return super().forward(x, axis=axis)


NEXT = "write dL/dx_j = Σ_i g_i dy_i/dx_j with dy_i/dx_j = y_i (δ_ij - y_j), and sum it up"


CHECKS = (
    Check("forward", 3, typical, "e^x over the sum of e^x along the axis, with keepdims=True"),
    Check("forward of large and masked logits", 2, large, "take the maximum along the axis off before exp"),
    Check("forward keeps float32", 1, float32(typical), "a float32 input must give a float32 output"),
    Check("gradient", 4, typical, NEXT, gradient=True),
    Check("gradient in float32", 1, float32(typical), NEXT, gradient=True),
    Check("arrays with gaps", 1, strided(typical), "do not rely on the order in memory"),
    Check("gradient of arrays with gaps", 1, strided(typical), NEXT, gradient=True),
    Check("no rows at all", 1, empty, "(0, 4) in, (0, 4) out"),
    Check(
        "known values",
        1,
        one_by_one(case(np.log(np.array([1.0, 2.0, 5.0])))),
        "ln 1, ln 2, ln 5 give 1/8, 2/8, 5/8",
    ),
)

MISTAKES = (
    OverflowsWithoutShift,
    AlwaysLastAxis,
    NormalizesOverEverything,
    ComputesInFloat64,
    DiagonalOnly,
    ForgetsTheSum,
    SumsOverLastAxis,
    SumsTheGradientAlone,
    IgnoresUpstream,
    SubtractsInPlace,
)
