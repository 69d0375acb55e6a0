"""Exercise 21: the router z-loss, forward and backward."""

from typing import Any

import numpy as np

from moe_numpy.moe.losses import RouterZLoss

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

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
    """For each token: the logarithm of the sum of exponentials, squared; their mean."""
    total = 0.0
    for row in h:
        top = max(row)
        total += (top + np.log(sum(np.exp(a - top) for a in row))) ** 2
    return np.asarray(total / max(len(h), 1), h.dtype)


def typical(rng: np.random.Generator) -> list[Case]:
    """More tokens than experts, fewer, one of each."""
    return [case(2 * rng.standard_normal(shape)) for shape in [(6, 4), (3, 8), (1, 3), (5, 1), (1, 1)]]


def large(rng: np.random.Generator) -> list[Case]:
    """Logits whose exponential overflows or underflows, and experts that are excluded."""
    h = rng.standard_normal((4, 5))
    return [case(h + 1000), case(h - 1000), case(np.where(np.eye(4, 5, dtype=bool), -np.inf, h))]


def empty(rng: np.random.Generator) -> list[Case]:
    """No tokens."""
    return [case(np.zeros((0, 4)))]


# Wrong solutions


def _log_sum_exp(h: Any, axis: int = 1) -> Any:
    top = h.max(axis=axis, keepdims=True)
    return top + np.log(np.exp(h - top).sum(axis=axis, keepdims=True))


class NotSquared(RouterZLoss):
    """The mean of the log-partition itself: that has no lowest point, logits would fall for ever. Square it."""

    def forward(self, h: Any) -> Any:
        """Without the square."""
        super().forward(h)
        return _log_sum_exp(h).sum() / max(len(h), 1)

    def backward(self, grad: Any) -> Any:
        """Of that."""
        p, _ = self.saved
        return grad * p / max(len(p), 1)


class SquaresTheMean(RouterZLoss):
    """Averages first and squares then: tokens with large logits of either sign cancel. Square each token's."""

    def forward(self, h: Any) -> Any:
        """In the wrong order."""
        super().forward(h)
        return (_log_sum_exp(h).sum() / max(len(h), 1)) ** 2


class SumsOverTokens(RouterZLoss):
    """Adds up over the tokens: the loss grows with the batch. It is their mean."""

    def forward(self, h: Any) -> Any:
        """Without 1/T."""
        return super().forward(h) * len(h)

    def backward(self, grad: Any) -> Any:
        """Of that."""
        return super().backward(grad) * len(self.saved[0])


class AveragesOverExpertsToo(RouterZLoss):
    """Divides by T · E, as np.mean over all logits does. There is one number for each token: divide by T."""

    def forward(self, h: Any) -> Any:
        """Divided by E."""
        return super().forward(h) / h.shape[1]

    def backward(self, grad: Any) -> Any:
        """Of that."""
        return super().backward(grad) / self.saved[0].shape[1]


class MeanOfSquaredLogits(RouterZLoss):
    """Penalises h² instead of the squared log-partition: at h = 0 it is 0, where the z-loss is (ln E)²."""

    def forward(self, h: Any) -> Any:
        """Σ h² / T."""
        super().forward(h)
        return (h * h).sum() / max(len(h), 1)


class LogMeanExp(RouterZLoss):
    """Takes the mean of the exponentials for their sum: it lacks ln E, and is 0 at h = 0."""

    def forward(self, h: Any) -> Any:
        """Without ln E."""
        return super().forward(h - h.dtype.type(np.log(h.shape[1])))


class OverflowsWithoutShift(RouterZLoss):
    """Exponentiates the logits as they are: e¹⁰⁰⁰ overflows. Take the row's maximum off, and add it back outside."""

    def forward(self, h: Any) -> Any:
        """Without the shift."""
        exp = np.exp(h)
        total = exp.sum(axis=1, keepdims=True)
        lse = np.log(total)
        self.save(exp / total, lse)
        return (lse * lse).sum() / max(len(h), 1)


class ForgetsToAddTheShift(RouterZLoss):
    """Takes off the maximum and does not add it back: the shift cancels in a softmax, not in a log-partition."""

    def forward(self, h: Any) -> Any:
        """Of shifted logits."""
        return super().forward(h - h.max(axis=1, keepdims=True))


class SumsOverTokensInTheExponential(RouterZLoss):
    """Sums the exponentials along axis 0: over tokens, for each expert. The experts are axis 1."""

    def forward(self, h: Any) -> Any:
        """Along the wrong axis."""
        if not len(h):
            return super().forward(h)
        lse = _log_sum_exp(h, axis=0)
        self.save(np.exp(h - lse), lse)
        return (lse * lse).sum() / lse.size


class ForgetsTheSoftmax(RouterZLoss):
    """dh = 2 lse / T for all experts: the derivative of the log-partition by h_i is p_i."""

    def backward(self, grad: Any) -> Any:
        """Without p."""
        p, lse = self.saved
        return grad * (2 / max(len(p), 1)) * lse * np.ones_like(p)


class ForgetsTheLogPartition(RouterZLoss):
    """dh = 2 p / T: the square's derivative is twice what was squared, 2 lse."""

    def backward(self, grad: Any) -> Any:
        """Without lse."""
        p, _ = self.saved
        return grad * (2 / max(len(p), 1)) * p


class ForgetsTheTwo(RouterZLoss):
    """dh = lse p / T: the derivative of a square has a factor 2."""

    def backward(self, grad: Any) -> Any:
        """Half."""
        return super().backward(grad) / 2


class ForgetsTheNumberOfTokens(RouterZLoss):
    """dh = 2 lse p: L is a mean over T tokens, each has a share of 1/T."""

    def backward(self, grad: Any) -> Any:
        """T times too large."""
        return super().backward(grad) * len(self.saved[0])


class IgnoresUpstream(RouterZLoss):
    """Leaves out the gradient from above: the loss enters the total with a coefficient, often 0.001."""

    def backward(self, grad: Any) -> Any:
        """As if it were 1."""
        return super().backward(np.ones_like(grad))


NEXT = "chain rule: the square gives 2 lse, the log-partition gives the softmax, the mean gives 1/T"


CHECKS = (
    Check("forward", 3, typical, "ln Σ exp h along the experts, squared, then the mean over tokens"),
    Check("large logits and excluded experts", 2, large, "take the maximum of each row off, and add it back"),
    Check("keeps float32", 1, float32(typical), "a float32 input must give a float32 output"),
    Check("gradient", 3, typical, NEXT, gradient=True),
    Check(
        "gradient of large logits",
        1,
        large,
        "save the softmax of the shifted logits",
        gradient=True,
        finite_differences=False,
    ),
    Check("gradient in float32", 1, float32(typical), NEXT, gradient=True),
    Check("arrays with gaps", 1, strided(typical), "do not rely on the order in memory"),
    Check("no tokens", 1, empty, "divide by max(T, 1): 0, not NaN"),
    Check(
        "known values",
        2,
        one_by_one(case(np.zeros((3, 4))), case(np.log(np.array([[1.0, 2.0], [0.5, 0.5]])))),
        "at h = 0 it is (ln E)²; rows with ln 3 and ln 1 give (ln 3)² / 2",
    ),
)

MISTAKES = (
    NotSquared,
    SquaresTheMean,
    SumsOverTokens,
    AveragesOverExpertsToo,
    MeanOfSquaredLogits,
    LogMeanExp,
    OverflowsWithoutShift,
    ForgetsToAddTheShift,
    SumsOverTokensInTheExponential,
    ForgetsTheSoftmax,
    ForgetsTheLogPartition,
    ForgetsTheTwo,
    ForgetsTheNumberOfTokens,
    IgnoresUpstream,
)
