"""Exercise 21: the router z-loss, forward and backward."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=21,
    name="z_loss",
    title="The router z-loss",
    teaches="A loss that keeps logits small where a softmax cannot see it, and a log-sum-exp that does not overflow.",
    difficulty=2,
    minutes=15,
    needs=(5,),
    target="moe_numpy.moe.losses:RouterZLoss",
    hints=(
        "A softmax is the same for h and h + 1000; this loss is not, and that is its purpose. How does ln Σ exp h "
        "change when a constant is added to h? Use it to keep exp in range.",
        "d lse/dh_i = exp h_i / Σ exp h: the softmax. The rest is the derivative of a square and of a mean.",
        "Forward: lse = top + np.log(total) with exp = np.exp(h - top); save exp / total and lse. Backward: "
        "grad * (2 / max(T, 1)) * lse * p, where lse has shape (T, 1).",
    ),
)


def specification(h: Any) -> Any:
    """The logarithm of the sum of exponentials, squared; the mean over the tokens."""
    total = 0.0
    for row in h:
        top = max(row)
        total += (top + np.log(sum(np.exp(a - top) for a in row))) ** 2
    return np.asarray(total / max(len(h), 1), h.dtype)


def typical(rng: np.random.Generator) -> list[Case]:
    return [case(2 * rng.standard_normal(shape)) for shape in [(6, 4), (3, 8), (1, 3), (5, 1), (1, 1)]]


def large(rng: np.random.Generator) -> list[Case]:
    """Logits whose exponential overflows or underflows, and excluded experts."""
    h = rng.standard_normal((4, 5))
    rows = np.array([[1000.0], [0.0], [-1000.0], [5.0]])
    masked = np.where(np.eye(4, 5, dtype=bool), -np.inf, h)
    return [case(h + 1000), case(h - 1000), case(masked), case(h + rows), case(masked + rows)]


def _beyond(rng: np.random.Generator, *sizes: float) -> list[Case]:
    h = rng.standard_normal((1, 5))
    masked = np.where(np.arange(5) == rng.integers(5), -np.inf, h)
    return [case(c) for size in sizes for c in (h + size, masked + size, size * np.abs(h))]


def huge(rng: np.random.Generator) -> list[Case]:
    """Rows, one at a time, far beyond what one would clip at or mask with."""
    return _beyond(rng, 3e4, -3e4, 1e9, -1e12, 1e100, -1e100)


def far_apart(rng: np.random.Generator) -> list[Case]:
    """Probabilities far below 1; many experts, and many tokens."""
    return [case(a * rng.standard_normal(shape)) for a, shape in [(10, (5, 4)), (1, (2, 300)), (1, (300, 2))]]


def beyond_clipping(rng: np.random.Generator) -> list[Case]:
    """Not so huge that exp(h - lse) is no longer the softmax."""
    return _beyond(rng, 3e4, -3e4)


KNOWN = one_by_one(case(np.zeros((3, 4))), case(np.log(np.array([[1.0, 2.0], [0.5, 0.5]]))))
NEXT = "chain rule: the square gives 2 lse, the log-sum-exp gives the softmax, the mean gives 1/T"
CHECKS = (
    Check("forward", 3, typical, "ln Σ exp h along the experts, squared, then the mean over tokens"),
    Check("large logits and excluded experts", 2, large, "subtract the maximum of each row, and add it back outside"),
    Check("gradient", 3, typical, NEXT, gradient=True),
    Check(
        "gradient of large logits",
        1,
        large,
        "save the softmax of the shifted logits",
        gradient=True,
        finite_differences=False,
    ),
    Check("logits of any size", 1, huge, "clip nothing; only -∞ is less than every logit"),
    Check(
        "gradient of logits of any size",
        1,
        beyond_clipping,
        "clip nothing; the derivative is 0 at -∞ only",
        gradient=True,
        finite_differences=False,
    ),
    Check(
        "gradient of logits far apart",
        1,
        far_apart,
        "an improbable expert has a gradient too",
        gradient=True,
        finite_differences=False,
    ),
    *standard_checks(typical, gradient=NEXT),
    Check("no tokens", 1, one_by_one(case(np.zeros((0, 4)))), "divide by max(T, 1): 0, not NaN", gradient=True),
    Check("known values", 1, KNOWN, "at h = 0 it is (ln E)²; rows with ln 3 and ln 1 give (ln 3)² / 2"),
)

MISTAKES = edits("""
not squared: The mean of ln Σ exp h has no lowest point: logits would fall for ever. Square it.
- (lse * lse).sum()
+ lse.sum()
- (2 / max(p.shape[0], 1)) * lse * p
+ (1 / max(p.shape[0], 1)) * p
squares the mean: Averages before squaring: large logits of opposite sign cancel. Square per token.
- (lse * lse).sum() / max(h.shape[0], 1)
+ (lse.sum() / max(h.shape[0], 1)) ** 2
sums over tokens: Without 1/T the loss grows with the batch. It is a mean over the tokens.
- (lse * lse).sum() / max(h.shape[0], 1)
+ (lse * lse).sum()
- (2 / max(p.shape[0], 1))
+ 2
averages over experts too: Divides by T · E, as np.mean over all logits does. There is one lse per token: divide by T.
- (lse * lse).sum() / max(h.shape[0], 1)
+ (lse * lse).sum() / max(h.size, 1)
- (2 / max(p.shape[0], 1))
+ (2 / max(p.size, 1))
mean of squared logits: Penalises h² instead of the squared log-sum-exp: 0 at h = 0, where the z-loss is (ln E)².
- (lse * lse)
+ (h * h)
log mean exp: Takes the mean of the exponentials instead of their sum: ln E is missing, and the loss is 0 at h = 0.
- xp.log(total)
+ xp.log(total / h.shape[1])
overflows without shift: e¹⁰⁰⁰ overflows. Subtract the row's maximum from the logits, and add it back outside.
- xp.where(h == xp.inf, 0, h - top)
+ h
- top + xp.log(total)
+ xp.log(total)
forgets to add the shift: The shift cancels in a softmax, not in a log-sum-exp: add the maximum back.
- top + xp.log(total)
+ xp.log(total)
sums over tokens in the exponential: Sums the exponentials along axis 0, over the tokens. The experts are axis 1.
- exp.sum(axis=1, keepdims=True)
+ exp.sum(axis=0, keepdims=True)
- h.max(axis=1, keepdims=True)
+ h.max(axis=0, keepdims=True)
forgets the softmax: dh = 2 lse / T for all experts: the derivative of the log-sum-exp by h_i is p_i.
- * lse * p
+ * lse * np.ones_like(p)
forgets the log partition: dh = 2 p / T: the derivative of lse² is 2 lse, not 2.
- * lse * p
+ * p
forgets the two: dh = lse p / T: the derivative of a square has a factor 2.
- (2 / max(p.shape[0], 1))
+ (1 / max(p.shape[0], 1))
forgets the number of tokens: dh = 2 lse p: each token's share of a mean is 1/T.
- (2 / max(p.shape[0], 1))
+ 2
ignores upstream: Leaves out the gradient from above: the loss enters the total with a coefficient, often 0.001.
- grad * (2 / max(p.shape[0], 1))
+ (2 / max(p.shape[0], 1))
one shift for all: Takes off the maximum of the whole array: rows far below it underflow. Each row needs its own.
- h.max(axis=1, keepdims=True)
+ h.max(initial=-np.inf)
gradient of the largest only: d lse / dh is the softmax: the largest logit is not alone.
- self.save(exp / total, lse)
+ self.save((exp == 1).astype(h.dtype), lse)
small number in the logarithm: ln(Σ + 1e-6) is not ln Σ. After the shift Σ is at least 1: nothing needs protection.
- xp.log(total)
+ xp.log(total + h.dtype.type(1e-4 if h.dtype == np.float32 else 1e-6))
a large number for minus infinity: Logits can be below -10⁴: an excluded expert then gets all.
- top = h.max(axis=1, keepdims=True)
+ h = xp.maximum(h, -1e4); top = h.max(axis=1, keepdims=True)
clips the logits: ln Σ exp h goes on beyond 10⁴.
- top = h.max(axis=1, keepdims=True)
+ h = xp.minimum(h, 1e4); top = h.max(axis=1, keepdims=True)
backward divides by no tokens: 2 / T without tokens is a division by zero: max(T, 1).
- (2 / max(p.shape[0], 1))
+ (2 / p.shape[0])
nothing for the improbable: Leaves out probabilities below 1e-6. Their gradients are small, but not 0.
- self.save(exp / total, lse)
+ self.save(np.where(exp < 1e-6 * total, 0, exp / total).astype(h.dtype), lse)
a huge number for minus infinity: Logits can be below -10³⁰ too. Only -∞ is less than every logit.
- top = h.max(axis=1, keepdims=True)
+ h = xp.maximum(h, -1e30).astype(h.dtype); top = h.max(axis=1, keepdims=True)
absolute value: |lse| has no lowest point with slope 0. The loss is the square.
- (lse * lse).sum()
+ abs(lse).sum()
""")
