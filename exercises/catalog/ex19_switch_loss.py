"""Exercise 19: the load-balancing loss of Switch Transformer, forward and backward."""

from typing import Any

import numpy as np

from moe_numpy.moe.losses import BalanceLoss

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=19,
    name="switch_loss",
    title="The balance loss of Switch Transformer",
    teaches="How a loss with a gradient is made of a count that has none.",
    difficulty=2,
    minutes=20,
    needs=(5,),
    target="moe_numpy.moe.losses:BalanceLoss",
    hints=(
        "Begin with one part, S = 1: the mean of p over the tokens is a vector of E numbers, f another. With several, "
        "p.reshape(S, -1, E) has the tokens of each part on axis 1.",
        "Backward needs f and the number of tokens, not p: the loss is linear in p. Each token of part s gets the row "
        "E f_s / T, times the gradient from above; f itself is a count and gets None.",
        "Forward: (f * p.reshape(S, -1, E).sum(axis=1) / max(T // S, 1)).sum() * (E / S). Backward: "
        "np.repeat(grad * (E / max(T, 1)) * f, T // S, axis=0).",
    ),
)


def specification(p: Any, f: Any) -> Any:
    """For each part and each expert: the mean score, times the fraction; summed."""
    parts, num_experts = f.shape
    size = len(p) // parts
    total = 0.0
    for s in range(parts):
        for i in range(num_experts):
            mean = sum(p[t, i] for t in range(s * size, (s + 1) * size)) / max(size, 1)
            total += num_experts * f[s, i] * mean / parts
    return np.asarray(total, p.dtype)


def _case(rng: np.random.Generator, tokens: int, experts: int, parts: int) -> Case:
    p = rng.dirichlet(np.ones(experts), tokens)
    f = rng.dirichlet(np.ones(experts), parts)
    return case(p, f).constant(1)


def whole(rng: np.random.Generator) -> list[Case]:
    """The batch in one part."""
    return [_case(rng, t, e, 1) for t, e in [(6, 4), (3, 5), (7, 2), (1, 3), (2, 1)]]


def in_parts(rng: np.random.Generator) -> list[Case]:
    """Several sequences."""
    return [_case(rng, *c) for c in [(6, 4, 2), (6, 3, 3), (4, 2, 4), (12, 5, 2)]]


def with_fractions(rng: np.random.Generator) -> list[Case]:
    """The fractions ask for a gradient. They must not get one."""
    return [case(*c.args) for c in (_case(rng, 6, 4, 1), _case(rng, 6, 3, 2))]


def empty(rng: np.random.Generator) -> list[Case]:
    """No tokens: nothing to balance."""
    return [case(np.zeros((0, 4)), np.zeros((1, 4)))]


# Wrong solutions


class ForgetsTheNumberOfExperts(BalanceLoss):
    """Without the factor E the value at balance is 1/E, and the loss weakens as experts are added."""

    def forward(self, p: Any, f: Any) -> Any:
        """Σ f P."""
        return super().forward(p, f) / f.shape[1]

    def backward(self, grad: Any) -> Any:
        """Of that."""
        d_p, _ = super().backward(grad)
        return d_p / d_p.shape[1], None


class SumsOverTokens(BalanceLoss):
    """Adds the scores up instead of averaging: P_i is a mean, so that the loss does not grow with the batch."""

    def forward(self, p: Any, f: Any) -> Any:
        """Without 1/T."""
        return super().forward(p, f) * (len(p) // len(f))

    def backward(self, grad: Any) -> Any:
        """Of that."""
        d_p, _ = super().backward(grad)
        return d_p * (self.num_tokens // len(self.saved[0])), None


class ForgetsTheNumberOfParts(BalanceLoss):
    """Adds up the losses of the parts. L is their mean: 1/S is missing."""

    def forward(self, p: Any, f: Any) -> Any:
        """A sum over s."""
        return super().forward(p, f) * len(f)

    def backward(self, grad: Any) -> Any:
        """Of that."""
        d_p, _ = super().backward(grad)
        return d_p * len(self.saved[0]), None


class AveragesBeforeMultiplying(BalanceLoss):
    """Averages f and P over the parts first. Two parts that overload opposite experts then cancel out."""

    def forward(self, p: Any, f: Any) -> Any:
        """One part of all."""
        return super().forward(p, f.mean(axis=0, keepdims=True))


class TakesEveryOtherToken(BalanceLoss):
    """Deals the tokens out to the parts in turn (reshape(-1, S, E)). A part is T/S tokens in a row."""

    def forward(self, p: Any, f: Any) -> Any:
        """Interleaved."""
        self.save(f)
        self.num_tokens, num_experts = p.shape
        mean = p.reshape(-1, len(f), num_experts).sum(axis=0) / max(len(p) // len(f), 1)
        return (f * mean).sum() * (num_experts / len(f))

    def backward(self, grad: Any) -> Any:
        """Of that."""
        (f,) = self.saved
        return np.tile(grad * (f.shape[1] / max(self.num_tokens, 1)) * f, (self.num_tokens // len(f), 1)), None


class SquaresTheMean(BalanceLoss):
    """E Σ P²: the counts f are not used. P alone does not know where the tokens really went."""

    def forward(self, p: Any, f: Any) -> Any:
        """P in the place of f."""
        parts = len(f)
        mean = p.reshape(parts, -1, f.shape[1]).sum(axis=1) / max(len(p) // parts, 1)
        return super().forward(p, mean)


class ChosenExpertsOnly(BalanceLoss):
    """Averages the scores of the chosen experts alone. P is the mean of the full softmax: experts that lose count."""

    def forward(self, p: Any, f: Any) -> Any:
        """Others are masked with 0."""
        return super().forward(np.where(p == p.max(axis=1, keepdims=True), p, 0), f)


class SoftmaxOfProbabilities(BalanceLoss):
    """Takes p for logits. They are probabilities already; a second softmax makes them nearly equal."""

    def forward(self, p: Any, f: Any) -> Any:
        """Softmax once more."""
        e = np.exp(p)
        return super().forward(e / e.sum(axis=1, keepdims=True), f)


class DifferentiatesTheFractions(BalanceLoss):
    """Returns dL/df = E P / S too. f is a count: it stays when a score changes a little. Its gradient is None."""

    def forward(self, p: Any, f: Any) -> Any:
        """Remembers P."""
        self.mean = p.reshape(len(f), -1, f.shape[1]).sum(axis=1) / max(len(p) // len(f), 1)
        return super().forward(p, f)

    def backward(self, grad: Any) -> Any:
        """As if f were a variable."""
        (f,) = self.saved
        return super().backward(grad)[0], grad * (f.shape[1] / len(f)) * self.mean


class GradientOfTheSum(BalanceLoss):
    """dL/dp = E f: P is a mean over T tokens, so each of them has a share of 1/T."""

    def backward(self, grad: Any) -> Any:
        """Without 1/T."""
        return super().backward(grad)[0] * self.num_tokens, None


class DividesByTheTokensOfAPart(BalanceLoss):
    """dL/dp = E f / (T/S): the mean over the S parts is forgotten. 1/S and 1/(T/S) make 1/T."""

    def backward(self, grad: Any) -> Any:
        """S times too large."""
        return super().backward(grad)[0] * len(self.saved[0]), None


class TilesTheParts(BalanceLoss):
    """Lays the S gradient rows out in turn (np.tile). A part is tokens in a row: np.repeat."""

    def backward(self, grad: Any) -> Any:
        """Interleaved."""
        (f,) = self.saved
        rows = grad * (f.shape[1] / max(self.num_tokens, 1)) * f
        return np.tile(rows, (self.num_tokens // len(f), 1)), None


class IgnoresUpstream(BalanceLoss):
    """Leaves out the gradient from above: the loss enters the total with a coefficient, often 0.01."""

    def backward(self, grad: Any) -> Any:
        """As if it were 1."""
        return super().backward(np.ones_like(grad))


NEXT = "L is linear in each p_ti: its factor is E f_si / T. A row for each token, the same within a part"


CHECKS = (
    Check("one part", 3, whole, "P is the mean of p over the tokens; multiply with f, sum over experts, times E"),
    Check("several parts", 2, in_parts, "reshape p to (S, T/S, E): each part has its own P; average the S losses"),
    Check("keeps float32", 1, float32(in_parts), "a Python number times a float32 array stays float32"),
    Check("gradient with one part", 3, whole, NEXT, gradient=True),
    Check("gradient with several parts", 2, in_parts, NEXT, gradient=True),
    Check("no gradient for the fractions", 2, with_fractions, "backward returns (dp, None)", gradient=True),
    Check("gradient in float32", 1, float32(in_parts), NEXT, gradient=True),
    Check("arrays with gaps", 1, strided(in_parts), "do not rely on the order in memory"),
    Check("no tokens", 1, empty, "divide by max(T/S, 1): 0, not NaN"),
    Check(
        "known values",
        2,
        one_by_one(
            case(np.full((8, 4), 0.25), np.full((1, 4), 0.25)),
            case(np.array([[0.451, 0.549]]), np.array([[0.9, 0.1]])),
            case(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])),
        ),
        "1 at balance; 0.9216 is possible too; two collapsed parts give 2",
    ),
)

MISTAKES = (
    ForgetsTheNumberOfExperts,
    SumsOverTokens,
    ForgetsTheNumberOfParts,
    AveragesBeforeMultiplying,
    TakesEveryOtherToken,
    SquaresTheMean,
    ChosenExpertsOnly,
    SoftmaxOfProbabilities,
    DifferentiatesTheFractions,
    GradientOfTheSum,
    DividesByTheTokensOfAPart,
    TilesTheParts,
    IgnoresUpstream,
)
