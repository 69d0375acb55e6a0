"""Exercise 20: the squared coefficient of variation, whose gradient must survive perfect balance."""

from typing import Any

import numpy as np

from moe_numpy.moe.losses import SquaredCV

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=20,
    name="importance",
    title="Importance: the squared coefficient of variation",
    teaches="The first balance loss, and why its gradient must never pass through a standard deviation.",
    difficulty=2,
    minutes=20,
    target="moe_numpy.moe.losses:SquaredCV",
    hints=(
        "Write it as var / scale with scale = m² + ε. No square root is needed anywhere.",
        "d var/dv_i = 2 (v_i - m) / divisor: the part through m vanishes, since Σ (v - m) = 0. "
        "d scale/dv_i = 2 m / n. Now the quotient rule.",
        "Save centred = v - m, m, scale and var; keep self.divisor = max(n - ddof, 1). Backward: "
        "grad * (2 centred / (divisor scale) - 2 m var / (n scale²)).",
    ),
)


def specification(v: Any, *, ddof: int = 1, epsilon: float = 1e-10) -> Any:
    """Variance by adding up, over the squared mean."""
    n = len(v)
    mean = sum(float(a) for a in v) / n
    variance = sum((float(a) - mean) ** 2 for a in v) / max(n - ddof, 1)
    return np.asarray(variance / (mean**2 + epsilon), v.dtype)


def typical(rng: np.random.Generator) -> list[Case]:
    """Positive numbers, as importances are; both divisors, and an ε that is felt."""
    v = [rng.uniform(0.5, 2, n) for n in (4, 7, 2, 5)]
    return [case(v[0]), case(v[1], ddof=0), case(v[2], ddof=1), case(v[2], ddof=0), case(v[3], epsilon=0.1)]


def balanced(rng: np.random.Generator) -> list[Case]:
    """All equal."""
    return [case(np.full(4, 2.5)), case(np.ones(8), ddof=0), case(np.full(2, float(rng.integers(2, 9))))]


def single(rng: np.random.Generator) -> list[Case]:
    """One number varies from nothing."""
    return [case(rng.uniform(1, 2, 1)), case(rng.uniform(1, 2, 1), ddof=0)]


def all_zero(rng: np.random.Generator) -> list[Case]:
    """Nobody got anything."""
    return [case(np.zeros(4)), case(np.zeros(3), ddof=0)]


def close_together(rng: np.random.Generator) -> list[Case]:
    """Large numbers with small differences, in float32."""
    return [case((2000 + rng.standard_normal(n)).astype(np.float32)) for n in (6, 9)]


# Wrong solutions


class ThroughTheStandardDeviation(SquaredCV):
    """Right, until all are equal: the derivative of √var is 1/(2√var), and 0/0 is NaN. Differentiate var itself."""

    def backward(self, grad: Any) -> Any:
        """2 (σ/m²) dσ with dσ = (v - m)/(n σ)."""
        centred, mean, scale, variance = self.saved
        n, deviation = len(centred), np.sqrt(variance)
        slope = centred / (self.divisor * deviation)
        return grad * (2 * deviation * slope / scale - 2 * mean * variance / (n * scale * scale))


class NotSquared(SquaredCV):
    """σ / m, the coefficient of variation. The loss is its square."""

    def forward(self, v: Any, *, ddof: int = 1, epsilon: float = 1e-10) -> Any:
        """With the root."""
        return np.sqrt(super().forward(v, ddof=ddof, epsilon=epsilon))


class DividesByTheMean(SquaredCV):
    """Variance over mean. Over the squared mean it does not change when all numbers are doubled."""

    def forward(self, v: Any, *, ddof: int = 1, epsilon: float = 1e-10) -> Any:
        """One power too few."""
        super().forward(v, ddof=ddof, epsilon=epsilon)
        _, mean, _, variance = self.saved
        return variance / (mean + epsilon)


class AlwaysDividesByN(SquaredCV):
    """Takes np.var as it is, which divides by n: `ddof` is not passed on, and its default here is 1."""

    def forward(self, v: Any, *, ddof: int = 1, epsilon: float = 1e-10) -> Any:
        """The population's variance."""
        return super().forward(v, ddof=0, epsilon=epsilon)


class AlwaysDividesByNMinusOne(SquaredCV):
    """Ignores ddof=0: V-MoE divides by n."""

    def forward(self, v: Any, *, ddof: int = 1, epsilon: float = 1e-10) -> Any:
        """The sample's variance."""
        return super().forward(v, ddof=1, epsilon=epsilon)


class DividesByZeroForOneNumber(SquaredCV):
    """n - ddof is 0 for a single number: 0/0. It must be at least 1."""

    def forward(self, v: Any, *, ddof: int = 1, epsilon: float = 1e-10) -> Any:
        """Without max."""
        value = super().forward(v, ddof=ddof, epsilon=epsilon)
        return value if len(v) > ddof else value * np.nan


class ForgetsEpsilon(SquaredCV):
    """Divides by m² alone: 0/0 when all numbers are zero."""

    def forward(self, v: Any, *, ddof: int = 1, epsilon: float = 1e-10) -> Any:
        """As if ε were 0."""
        return super().forward(v, ddof=ddof, epsilon=0.0)


class AddsEpsilonToTheMean(SquaredCV):
    """(m + ε)²: the formula has m² + ε."""

    def forward(self, v: Any, *, ddof: int = 1, epsilon: float = 1e-10) -> Any:
        """Before squaring."""
        super().forward(v, ddof=ddof, epsilon=epsilon)
        centred, mean, _, variance = self.saved
        scale = (mean + epsilon) ** 2
        self.save(centred, mean, scale, variance)
        return variance / scale


class DifferenceOfSquares(SquaredCV):
    """var = mean(v²) - m²: two large numbers nearly cancel, in float32 nothing is left. Take off the mean first."""

    def forward(self, v: Any, *, ddof: int = 1, epsilon: float = 1e-10) -> Any:
        """Loses the digits."""
        super().forward(v, ddof=ddof, epsilon=epsilon)
        _, mean, scale, _ = self.saved
        return ((v * v).mean() - mean * mean) * (len(v) / self.divisor) / scale


class MeanIsConstant(SquaredCV):
    """Leaves out the second term: the mean in the denominator depends on every v_i."""

    def backward(self, grad: Any) -> Any:
        """Only through the variance."""
        centred, _, scale, _ = self.saved
        return grad * 2 * centred / (self.divisor * scale)


class SignOfTheSecondTerm(SquaredCV):
    """Adds the second term. A larger denominator makes a smaller quotient: minus."""

    def backward(self, grad: Any) -> Any:
        """Plus."""
        centred, mean, scale, variance = self.saved
        n = len(centred)
        return grad * (2 * centred / (self.divisor * scale) + 2 * mean * variance / (n * scale * scale))


class SecondTermWithoutN(SquaredCV):
    """The second term lacks 1/n: that is what m changes by when one v_i changes by 1."""

    def backward(self, grad: Any) -> Any:
        """dm/dv_i taken as 1."""
        centred, mean, scale, variance = self.saved
        return grad * (2 * centred / (self.divisor * scale) - 2 * mean * variance / (scale * scale))


class BackwardDividesByN(SquaredCV):
    """Backward divides by n where forward divided by n - ddof: it must remember the divisor."""

    def backward(self, grad: Any) -> Any:
        """Another divisor than forward's."""
        centred, mean, scale, variance = self.saved
        n = len(centred)
        return grad * (2 * centred / (n * scale) - 2 * mean * variance / (n * scale * scale))


NEXT = "var = Σ (v - m)² / divisor and m² + ε both depend on v: the quotient rule gives two terms"


CHECKS = (
    Check("forward", 3, typical, "var / (m² + ε), where var divides by n - ddof"),
    Check("a single number", 1, single, "divide by max(n - ddof, 1)"),
    Check("all zero", 1, all_zero, "ε keeps the denominator above zero"),
    Check("large numbers close together", 1, close_together, "take off the mean before squaring"),
    Check("keeps float32", 1, float32(typical), "a float32 input must give a float32 output"),
    Check("gradient", 3, typical, NEXT, gradient=True),
    Check(
        "gradient at perfect balance is zero, not NaN",
        3,
        balanced,
        "differentiate the variance; √var has no derivative at 0",
        gradient=True,
        finite_differences=False,
    ),
    Check(
        "gradient of zeros is zero",
        1,
        all_zero,
        "ε belongs in the denominators of backward too",
        gradient=True,
        finite_differences=False,
    ),
    Check("gradient in float32", 1, float32(typical), NEXT, gradient=True),
    Check("arrays with gaps", 1, strided(typical), "do not rely on the order in memory"),
    Check(
        "known values",
        1,
        one_by_one(case(np.array([1.0, 2.0, 3.0, 4.0]), ddof=0), case(np.array([1.0, 2.0, 3.0, 4.0]))),
        "mean 2.5, Σ (v - m)² = 5: 0.2 with ddof=0, 0.267 with ddof=1",
    ),
)

MISTAKES = (
    ThroughTheStandardDeviation,
    NotSquared,
    DividesByTheMean,
    AlwaysDividesByN,
    AlwaysDividesByNMinusOne,
    DividesByZeroForOneNumber,
    ForgetsEpsilon,
    AddsEpsilonToTheMean,
    DifferenceOfSquares,
    MeanIsConstant,
    SignOfTheSecondTerm,
    SecondTermWithoutN,
    BackwardDividesByN,
)
