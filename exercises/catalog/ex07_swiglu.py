"""Exercise 07: SwiGLU, the activation inside most experts."""

from typing import Any

import numpy as np

from moe_numpy.ops.activations import SwiGLU

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=7,
    name="swiglu",
    title="SwiGLU",
    teaches="The product rule twice over, in the activation that nearly every expert uses.",
    difficulty=1,
    minutes=15,
    needs=(2,),
    target="moe_numpy.ops.activations:SwiGLU",
    hints=(
        "y is a product of three: gate, σ(gate) and up. gate occurs twice, so its derivative has two terms.",
        "σ' = σ (1 - σ), so silu' = σ + gate σ (1 - σ). For up the other two factors are constants.",
        "Save gate, up and σ = 1 / (1 + e^-gate). dgate = g up σ (1 + gate (1 - σ)); dup = g gate σ.",
    ),
)


def specification(gate: Any, up: Any) -> Any:
    """Entry by entry, with the form of the sigmoid that cannot overflow."""
    y = np.zeros(gate.shape, gate.dtype)
    for i in np.ndindex(gate.shape):
        g = gate[i]
        sigma = 1 / (1 + np.exp(-g)) if g >= 0 else np.exp(g) / (1 + np.exp(g))
        y[i] = g * sigma * up[i]
    return y


def typical(rng: np.random.Generator) -> list[Case]:
    """Any shape."""
    return [case(*rng.standard_normal((2, *shape))) for shape in [(3, 4), (5,), (2, 3, 2), (1, 1)]]


def wide(rng: np.random.Generator) -> list[Case]:
    """Gates far from 0, where silu turns into 0 or x, and those at 0."""
    gate = np.array([-30.0, -8.0, -1.3, 0.0, 1.3, 8.0, 30.0])
    return [case(gate, rng.standard_normal(7)), case(gate, np.zeros(7)), case(np.zeros(4), rng.standard_normal(4))]


def huge(rng: np.random.Generator) -> list[Case]:
    """Gates where the exponential overflows."""
    return [case(np.array([-2000.0, -800.0, 800.0, 2000.0]), 1 + rng.random(4))]


def empty(rng: np.random.Generator) -> list[Case]:
    """An expert without tokens."""
    return [case(np.zeros((0, 4)), np.zeros((0, 4)))]


# Wrong solutions


def _sigma(x: Any) -> Any:
    return np.where(x >= 0, 1, np.exp(-abs(x))).astype(x.dtype) / (1 + np.exp(-abs(x)))


class GatesTheOtherHalf(SwiGLU):
    """Activates up and multiplies with gate. The first argument is the one that goes through silu."""

    def forward(self, gate: Any, up: Any) -> Any:
        """Exchanged."""
        return super().forward(up, gate)

    def backward(self, grad: Any) -> Any:
        """Exchanged too."""
        dup, dgate = super().backward(grad)
        return dgate, dup


class SigmoidInsteadOfSilu(SwiGLU):
    """σ(gate) up is the older GLU. silu multiplies with gate once more: gate σ(gate) up."""

    def forward(self, gate: Any, up: Any) -> Any:
        """GLU."""
        super().forward(gate, up)
        return _sigma(gate) * up

    def backward(self, grad: Any) -> Any:
        """Of GLU."""
        gate, up = self.saved
        sigma = _sigma(gate)
        return grad * up * sigma * (1 - sigma), grad * sigma


class GeluInsteadOfSilu(SwiGLU):
    """x σ(1.702 x) is an approximation of GELU. silu has the factor 1."""

    def forward(self, gate: Any, up: Any) -> Any:
        """GEGLU."""
        self.save(gate, up)
        return gate * _sigma(1.702 * gate) * up


class ForgetsUp(SwiGLU):
    """Returns silu(gate) alone."""

    def forward(self, gate: Any, up: Any) -> Any:
        """Only half."""
        return super().forward(gate, np.ones_like(up))


class OverflowsToNaN(SwiGLU):
    """σ = eˣ / (1 + eˣ) is inf / inf for large x. 1 / (1 + e⁻ˣ), or that form for x < 0 only, stays finite."""

    def forward(self, gate: Any, up: Any) -> Any:
        """The form that fails."""
        sigma = np.exp(gate) / (1 + np.exp(gate))
        self.save(gate, up)
        return gate * sigma * up


class SigmoidIsAConstant(SwiGLU):
    """dgate = g up σ: the product rule has a second term, since σ depends on gate too."""

    def backward(self, grad: Any) -> Any:
        """The first term."""
        gate, up = self.saved
        sigma = _sigma(gate)
        return grad * up * sigma, grad * gate * sigma


class OnlyTheSlopeOfSigmoid(SwiGLU):
    """dgate = g up gate σ (1 - σ): the first term of the product rule, σ itself, is missing."""

    def backward(self, grad: Any) -> Any:
        """The second term."""
        gate, up = self.saved
        sigma = _sigma(gate)
        return grad * up * gate * sigma * (1 - sigma), grad * gate * sigma


class SlopeOfSigmoidAlone(SwiGLU):
    """dgate = g up σ (1 - σ): the derivative of σ, not of x σ."""

    def backward(self, grad: Any) -> Any:
        """Of the sigmoid."""
        gate, up = self.saved
        sigma = _sigma(gate)
        return grad * up * sigma * (1 - sigma), grad * gate * sigma


class GateGradientForgetsUp(SwiGLU):
    """dgate = g silu'(gate). y = silu(gate) up, so up is a factor of it."""

    def backward(self, grad: Any) -> Any:
        """Without up."""
        gate, _ = self.saved
        sigma = _sigma(gate)
        return grad * sigma * (1 + gate * (1 - sigma)), grad * gate * sigma


class UpGradientWithSigmoid(SwiGLU):
    """dup = g σ(gate). up is multiplied with silu(gate) = gate σ(gate)."""

    def backward(self, grad: Any) -> Any:
        """Without gate."""
        dgate, _ = super().backward(grad)
        return dgate, grad * _sigma(self.saved[0])


class IgnoresUpstream(SwiGLU):
    """Backward works with ones instead of the gradient from above."""

    def backward(self, grad: Any) -> Any:
        """As if L were Σ y."""
        return super().backward(np.ones_like(grad))


class ComputesInFloat64(SwiGLU):
    """Returns float64 for float32 input. One such op makes everything behind it twice as large and half as fast."""

    def forward(self, gate: Any, up: Any) -> Any:
        """Promotes."""
        return super().forward(gate.astype(np.float64), up)


CHECKS = (
    Check("forward", 2, typical, "gate σ(gate) up, entry by entry"),
    Check("forward far from zero", 1, wide, "silu(-30) is nearly 0, silu(30) nearly 30"),
    Check("nothing overflows to NaN", 2, huge, "which form of σ divides infinity by infinity?"),
    Check("gradients", 4, typical, "silu'(x) has two terms; dup needs silu(gate)", gradient=True),
    Check("gradients far from zero", 2, wide, "silu' goes from 0 to 1 and is ½ at 0", gradient=True),
    Check(
        "finite gradients of huge gates",
        1,
        huge,
        "save σ and use it again",
        gradient=True,
        finite_differences=False,
    ),
    Check("float32", 1, float32(wide), "everything stays float32"),
    Check("gradients in float32", 1, float32(typical), "everything stays float32", gradient=True),
    Check("arrays with gaps", 1, strided(typical), "leave gate and up as they are", gradient=True),
    Check("no tokens", 1, empty, "nothing in, nothing out", gradient=True),
    Check(
        "knows the smallest example",
        1,
        one_by_one(case(np.array([0.0, np.log(3.0)]), np.array([7.0, 4.0]))),
        "by hand: silu(0) = 0, and σ(ln 3) = ¾",
    ),
)

MISTAKES = (
    GatesTheOtherHalf,
    SigmoidInsteadOfSilu,
    GeluInsteadOfSilu,
    ForgetsUp,
    OverflowsToNaN,
    SigmoidIsAConstant,
    OnlyTheSlopeOfSigmoid,
    SlopeOfSigmoidAlone,
    GateGradientForgetsUp,
    UpGradientWithSigmoid,
    IgnoresUpstream,
    ComputesInFloat64,
)
