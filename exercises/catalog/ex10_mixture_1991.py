"""Exercise 10: the mixture of 1991 and its posterior gradient."""

from typing import Any

import numpy as np

from moe_numpy.moe.mixture_1991 import MixtureLikelihood

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=10,
    name="mixture_1991",
    title="The mixture of 1991",
    teaches="How experts specialise: each answers for a token by its posterior, and the gate learns to predict it.",
    difficulty=3,
    minutes=30,
    needs=(5, 6),
    target="moe_numpy.moe.mixture_1991:MixtureLikelihood",
    hints=(
        "Let a_i = ln g_i - ½ ‖y - o_i‖². The loss of a token is -ln Σ exp a_i. What is d ln Σ exp a_i / d a_i?",
        "It is softmax(a) = r, the posterior. Then go on: da_i/do_i = y - o_i, and dln g_i/dh_j = δ_ij - g_j.",
        "Save g, r = softmax(a) over experts and error = o - y[:, None]. With s = grad / T: dh = s (g - r), "
        "do = s r[:, :, None] error, dy = -do.sum(axis=1).",
    ),
)


def specification(h: Any, o: Any, y: Any) -> Any:
    """One token after the other: the logarithm of a sum of g_i P_i, with the largest term taken out."""
    total = np.zeros((), h.dtype)
    for t in range(len(h)):
        top = max(h[t])
        normaliser = top + np.log(sum(np.exp(v - top) for v in h[t]))
        terms = []
        for i in range(h.shape[1]):
            squared = sum((y[t, j] - o[t, i, j]) ** 2 for j in range(y.shape[1]))
            terms.append(h[t, i] - normaliser - 0.5 * squared)
        best = max(terms)
        total -= best + np.log(sum(np.exp(v - best) for v in terms))
    return total / max(len(h), 1)


def typical(rng: np.random.Generator) -> list[Case]:
    """T, E and d all different; one of each."""
    return [_case(rng, *s) for s in [(4, 3, 2), (2, 5, 3), (3, 2, 4), (1, 4, 1), (3, 3, 3)]]


def one_expert(rng: np.random.Generator) -> list[Case]:
    """A single expert is responsible for everything: the gate learns nothing."""
    return [_case(rng, 3, 1, 2)]


def far(rng: np.random.Generator) -> list[Case]:
    """Targets so far from every expert that every density is 0 in floating point."""
    a, b = _case(rng, 3, 4, 2), _case(rng, 2, 3, 5)
    return [case(a.args[0], a.args[1], a.args[2] + 100), case(b.args[0], 60 * b.args[1], b.args[2])]


def certain(rng: np.random.Generator) -> list[Case]:
    """Gates with huge logits."""
    c = _case(rng, 3, 4, 2)
    return [case(1000 * c.args[0], *c.args[1:]), case(c.args[0] + 1000, *c.args[1:])]


def no_tokens(rng: np.random.Generator) -> list[Case]:
    """An empty batch has the loss 0."""
    return [case(np.zeros((0, 3)), np.zeros((0, 3, 2)), np.zeros((0, 2)))]


def fixed_target(rng: np.random.Generator) -> list[Case]:
    """y is data, as in training."""
    return [_case(rng, 4, 3, 2).constant(2)]


def _case(rng: np.random.Generator, tokens: int, experts: int, d: int) -> Case:
    h = 2 * rng.standard_normal((tokens, experts))
    return case(h, rng.standard_normal((tokens, experts, d)), rng.standard_normal((tokens, d)))


# Wrong solutions


class ErrorOfTheMeanOutput(MixtureLikelihood):
    """½ ‖y - Σ g o‖² (equation 1.1): experts are added up and must cooperate. Here each is compared on its own."""

    def forward(self, h: Any, o: Any, y: Any) -> Any:
        """Cooperation."""
        super().forward(h, o, y)
        g, _, _ = self.saved
        error = (g[:, :, None] * o).sum(axis=1) - y
        return 0.5 * (error * error).sum() / max(len(h), 1)


class MeanError(MixtureLikelihood):
    """½ Σ g_i ‖y - o_i‖² (equation 1.2): close to it, but every expert is pulled by g_i, not by the posterior."""

    def forward(self, h: Any, o: Any, y: Any) -> Any:
        """Competition without a likelihood."""
        super().forward(h, o, y)
        g, _, error = self.saved
        return 0.5 * (g * (error * error).sum(axis=2)).sum() / max(len(h), 1)


class ForgetsTheHalf(MixtureLikelihood):
    """P = exp(-‖y - o‖²): the ½ of the Gaussian is missing."""

    def forward(self, h: Any, o: Any, y: Any) -> Any:
        """Half the variance."""
        root = 2**0.5
        return super().forward(h, o * root, y * root)


class ForgetsTheGate(MixtureLikelihood):
    """-ln of the mean of the P_i: each P_i must be weighted with its g_i."""

    def forward(self, h: Any, o: Any, y: Any) -> Any:
        """All gates equal."""
        return super().forward(np.zeros_like(h), o, y)


class SumOfTheLogarithms(MixtureLikelihood):
    """-Σ_i g_i ln (g_i P_i): the logarithm has been moved past the sum. ln Σ is not Σ ln."""

    def forward(self, h: Any, o: Any, y: Any) -> Any:
        """Jensen's bound."""
        super().forward(h, o, y)
        g, _, error = self.saved
        with np.errstate(divide="ignore"):
            log_g = np.log(g)
        joint = np.where(g > 0, log_g, 0) - 0.5 * (error * error).sum(axis=2)
        return -(g * joint).sum() / max(len(h), 1)


class UnderflowsFarAway(MixtureLikelihood):
    """Computes P first: exp(-5000) is 0, and ln 0 is -∞. Add logarithms and take the largest out of the sum."""

    def forward(self, h: Any, o: Any, y: Any) -> Any:
        """ln Σ g P as it is written."""
        super().forward(h, o, y)
        g, _, error = self.saved
        joint = g * np.exp(-0.5 * (error * error).sum(axis=2))
        total = joint.sum(axis=1, keepdims=True)
        self.save(g, joint / total, error)
        return -np.log(total).sum() / max(len(h), 1)


class SumsOverTokens(MixtureLikelihood):
    """Sums over the tokens. The loss is their mean."""

    def forward(self, h: Any, o: Any, y: Any) -> Any:
        """T times too large."""
        return super().forward(h, o, y) * len(h)

    def backward(self, grad: Any) -> Any:
        """The same."""
        return super().backward(grad * len(self.saved[0]))


class GradientNotAveraged(MixtureLikelihood):
    """The 1/T of the mean is missing in backward."""

    def backward(self, grad: Any) -> Any:
        """T times too large."""
        return super().backward(grad * len(self.saved[0]))


class ExpertsByTheirGate(MixtureLikelihood):
    """do_i = g_i (o_i - y): weighs by the guess made before the target was seen. The posterior r_i belongs here."""

    def backward(self, grad: Any) -> Any:
        """Prior instead of posterior."""
        g, _, error = self.saved
        dh, _, _ = super().backward(grad)
        do = grad / max(len(g), 1) * g[:, :, None] * error
        return dh, do, -do.sum(axis=1)


class AllExpertsAlike(MixtureLikelihood):
    """do_i = o_i - y without r_i: every expert is pulled to every target, and none specialises."""

    def backward(self, grad: Any) -> Any:
        """No competition."""
        g, _, error = self.saved
        dh, _, dy = super().backward(grad)
        return dh, grad / max(len(g), 1) * error, dy


class GateWithoutItsGuess(MixtureLikelihood):
    """dh = -r: the g comes from the normaliser of the softmax. Without it the gate's gradient does not sum to 0."""

    def backward(self, grad: Any) -> Any:
        """Half of it."""
        g, r, _ = self.saved
        _, do, dy = super().backward(grad)
        return -grad / max(len(g), 1) * r, do, dy


class GateAwayFromThePosterior(MixtureLikelihood):
    """dh = r - g: the sign is flipped. Descent moves against the gradient, so g must come first."""

    def backward(self, grad: Any) -> Any:
        """Uphill."""
        dh, do, dy = super().backward(grad)
        return -dh, do, dy


class ForgetsTheTarget(MixtureLikelihood):
    """Returns no gradient for y, which is an input like the others."""

    def backward(self, grad: Any) -> Any:
        """None for y."""
        dh, do, _ = super().backward(grad)
        return dh, do, None


class TargetOfOneExpert(MixtureLikelihood):
    """dy from the first expert only. y was compared with all of them: dy = -Σ_i do_i."""

    def backward(self, grad: Any) -> Any:
        """Without the sum."""
        dh, do, _ = super().backward(grad)
        return dh, do, -do[:, 0]


CHECKS = (
    Check("the loss", 2, typical, "-ln Σ_i g_i P_i for each token, then the mean"),
    Check("targets far from every expert", 2, far, "add ln g_i and ln P_i; take the largest out before exp"),
    Check("gates that are certain", 1, certain, "ln g = h - max - ln Σ exp(h - max), which is never ln 0"),
    Check("gradients of gate, experts and target", 4, typical, "both contain the posterior r", gradient=True),
    Check("one expert", 1, one_expert, "g = r = 1: the gate's gradient is 0", gradient=True),
    Check(
        "gradients far from every expert",
        2,
        far,
        "r is a softmax of ln g + ln P",
        gradient=True,
    ),
    Check("gradients when the target is data", 1, fixed_target, "the same, y aside", gradient=True),
    Check("float32", 1, float32(typical), "everything stays float32"),
    Check("gradients in float32", 1, float32(typical), "everything stays float32", gradient=True),
    Check("arrays with gaps", 1, strided(typical), "leave the inputs as they are", gradient=True),
    Check("no tokens", 1, no_tokens, "divide by max(T, 1)"),
    Check(
        "knows the smallest example",
        1,
        one_by_one(case(np.zeros((1, 2)), np.array([[[1.0], [-1.0]]]), np.zeros((1, 1)))),
        "by hand: two experts equally far away, ½ in all",
    ),
)

MISTAKES = (
    ErrorOfTheMeanOutput,
    MeanError,
    ForgetsTheHalf,
    ForgetsTheGate,
    SumOfTheLogarithms,
    UnderflowsFarAway,
    SumsOverTokens,
    GradientNotAveraged,
    ExpertsByTheirGate,
    AllExpertsAlike,
    GateWithoutItsGuess,
    GateAwayFromThePosterior,
    ForgetsTheTarget,
    TargetOfOneExpert,
)
