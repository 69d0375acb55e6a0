"""Exercise 20: the squared coefficient of variation, whose gradient must survive perfect balance."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

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
    """Positive numbers, as importances are; both divisors, and an ε large enough to matter."""
    v = [rng.uniform(0.5, 2, n) for n in (4, 7, 2, 5)]
    return [case(v[0]), case(v[1], ddof=0), case(v[2], ddof=1), case(v[2], ddof=0), case(v[3], epsilon=0.1)]


def small(rng: np.random.Generator) -> list[Case]:
    """Numbers whose squared mean is about ε, and far below it."""
    v = rng.uniform(0.5, 2, 5)
    return [case(1e-5 * v), case(1e-7 * v), case(v * [1, -1, 0.1, 0.2, -0.1], epsilon=0.5)]


def any_numbers(rng: np.random.Generator) -> list[Case]:
    """Many numbers, huge and tiny ones, and other values of ε."""
    v = rng.uniform(0.5, 2, 5)
    return [
        case(rng.uniform(0.5, 2, 300)),
        case(1e8 * v),
        case(1e-9 * v, epsilon=1e-20),
        case(v, epsilon=0.0),
        case(v, ddof=0, epsilon=0.3),
    ]


def large_losses(rng: np.random.Generator) -> list[Case]:
    """A mean near zero and one of zero, and a large coefficient."""
    v = rng.uniform(0.5, 2, 4)
    balanced = np.array([1.0, -1.0, 2.0, -2.0])
    return [case(balanced), case(balanced + 1e-3, ddof=0), case(v).upstream(np.asarray(1e6))]


def any_ddof(rng: np.random.Generator) -> list[Case]:
    """Also as many as there are numbers, and more."""
    return [case(rng.uniform(0.5, 2, n), ddof=ddof) for n, ddof in [(6, 2), (6, 4), (3, 3), (2, 5)]]


def signed(rng: np.random.Generator) -> list[Case]:
    """Numbers below zero, of both signs, and very close to each other."""
    v = rng.uniform(0.5, 2, 5)
    return [case(-v), case(v * [1, -1, 1, 1, 1]), case(1 + 1e-5 * v, ddof=0)]


def single(rng: np.random.Generator) -> list[Case]:
    return [case(rng.uniform(1, 2, 1)), case(rng.uniform(1, 2, 1), ddof=0)]


def close_together(rng: np.random.Generator) -> list[Case]:
    """Large numbers with small differences, in float32."""
    return [case((200 + rng.standard_normal(n)).astype(np.float32)) for n in (6, 9)]


BALANCED = one_by_one(case(np.full(4, 2.5)), case(np.ones(8), ddof=0), case(np.full(2, 7.0)))
ZEROS = one_by_one(case(np.zeros(4)), case(np.zeros(3), ddof=0))
KNOWN = one_by_one(*(case(np.array([1.0, 2.0, 3.0, 4.0]), ddof=ddof) for ddof in (0, 1)))
NEXT = "var = Σ (v - m)² / divisor and m² + ε both depend on v: the quotient rule gives two terms"
CHECKS = (
    Check("forward", 2, typical, "var / (m² + ε), where var divides by n - ddof"),
    Check("numbers of any sign", 1, signed, "nothing but var / (m² + ε)"),
    Check("gradient for numbers of any sign", 1, signed, NEXT, gradient=True, finite_differences=False),
    Check("a single number", 1, single, "divide by max(n - ddof, 1)", gradient=True),
    Check("any ddof", 1, any_ddof, "divide by max(n - ddof, 1)", gradient=True),
    Check(
        "losses of any size",
        1,
        large_losses,
        "cap nothing: var / (m² + ε)",
        gradient=True,
        finite_differences=False,
    ),
    Check(
        "any numbers, any epsilon",
        1,
        any_numbers,
        "n, m² and ε as they are",
        gradient=True,
        finite_differences=False,
    ),
    Check("small numbers", 1, small, "add ε to m², always", gradient=True, finite_differences=False),
    Check("all zero", 1, ZEROS, "ε keeps the denominator above zero"),
    Check("large numbers close together", 1, close_together, "subtract the mean before squaring"),
    Check("gradient", 3, typical, NEXT, gradient=True),
    Check(
        "gradient at perfect balance is zero, not NaN",
        3,
        BALANCED,
        "differentiate the variance; √var has no derivative at 0",
        gradient=True,
        finite_differences=False,
    ),
    Check(
        "gradient of zeros is zero",
        1,
        ZEROS,
        "ε belongs in the denominators of backward too",
        gradient=True,
        finite_differences=False,
    ),
    *standard_checks(typical, gradient=NEXT),
    Check("known values", 1, KNOWN, "mean 2.5, Σ (v - m)² = 5: 0.2 with ddof=0, 0.267 with ddof=1"),
)

MISTAKES = edits("""
through the standard deviation: d√var = dvar / (2 √var): 0/0 when all are equal. Differentiate var itself.
- 2 * centred / (self.divisor * scale)
+ 2 * np.sqrt(variance) * (centred / (self.divisor * np.sqrt(variance))) / scale
not squared: σ / m is the coefficient of variation. The loss is its square.
- return variance / scale
+ return np.sqrt(variance / scale)
divides by the mean: Divides the variance by m. Over m² the loss stays the same when all numbers are doubled.
- return variance / scale
+ return variance / (mean + epsilon)
always divides by n: Takes np.var as it is, which divides by n. Pass on `ddof`: its default here is 1.
- self.divisor = max(n - ddof, 1)
+ self.divisor = n
always divides by n minus one: Ignores ddof=0: V-MoE divides by n.
- self.divisor = max(n - ddof, 1)
+ self.divisor = max(n - 1, 1)
divides by zero for one number: n - ddof is 0 for a single number: 0/0. Use max(n - ddof, 1).
- self.divisor = max(n - ddof, 1)
+ self.divisor = n - ddof
forgets epsilon: Divides by m² alone: 0/0 when all numbers are zero.
- mean * mean + epsilon
+ mean * mean
adds epsilon to the mean: Divides by (m + ε)²; the formula has m² + ε.
- mean * mean + epsilon
+ (mean + epsilon) ** 2
difference of squares: Σ v² - n m² nearly cancels for large v: float32 has no digits left. Subtract the mean first.
- (centred * centred).sum()
+ ((v * v).sum() - n * mean * mean)
mean is constant: Leaves out the second term: the mean in the denominator depends on every v_i.
- 2 * centred / (self.divisor * scale) - 2 * mean * variance / (n * scale * scale)
+ 2 * centred / (self.divisor * scale)
sign of the second term: Adds the second term. A larger denominator makes a smaller quotient: minus.
- scale) - 2 * mean * variance
+ scale) + 2 * mean * variance
second term without n: The second term lacks 1/n: m changes by 1/n when one v_i changes by 1.
- (n * scale * scale)
+ (scale * scale)
backward divides by n: Backward divides by n where forward divided by n - ddof. Keep the divisor in forward.
- 2 * centred / (self.divisor * scale)
+ 2 * centred / (n * scale)
mean never below epsilon: Takes max(m, ε)²: the numbers may be negative. Write m² + ε.
- mean * mean + epsilon
+ np.maximum(mean, v.dtype.type(epsilon)) ** 2
ddof zero or one: Treats every ddof that is not 0 as 1.
- self.divisor = max(n - ddof, 1)
+ self.divisor = max(n - 1, 1) if ddof else n
divisor without a floor: n - ddof can be negative. Use max(n - ddof, 1).
- self.divisor = max(n - ddof, 1)
+ self.divisor = n - ddof or 1
larger of square and epsilon: max(m², ε): the formula adds ε.
- mean * mean + epsilon
+ np.maximum(mean * mean, v.dtype.type(epsilon))
epsilon for zeros only: Adds ε only where m = 0: m² can be smaller than ε.
- mean * mean + epsilon
+ mean * mean + (epsilon if mean == 0 else 0)
numbers below 1e-8 are zero: Importances may be as small as they like, and ε too.
- mean = v.mean()
+ v = np.where(abs(v) < 1e-8, 0, v).astype(v.dtype); mean = v.mean()
caps the loss: A loss has no upper bound: m² can be as small as it likes.
- return variance / scale
+ return np.minimum(variance / scale, v.dtype.type(1e3))
backward without epsilon: Divides by m² in backward: 0/0 when all numbers are zero. Save the denominator of forward.
- centred, mean, scale, variance = self.saved
+ centred, mean, scale, variance = self.saved; scale = mean * mean
mean of absolute values: Divides by the mean of |v|. The coefficient of variation has the mean itself.
- scale = mean * mean + epsilon
+ scale = np.abs(v).mean() ** 2 + epsilon
epsilon in the variance: Adds ε to the variance too. Perfect balance then has a loss.
- .sum() / self.divisor
+ .sum() / self.divisor + epsilon
rounds tiny losses away: A loss below 1e-10 is not 0: balance is approached in small steps.
- return variance / scale
+ return variance / scale if variance > 1e-10 * scale else variance * 0
mean without its sign: The second term has 2 m, which is negative for negative numbers.
- 2 * mean * variance
+ 2 * abs(mean) * variance
""")
