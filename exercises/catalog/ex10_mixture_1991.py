"""Exercise 10: the mixture of 1991 and its posterior gradient."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=10,
    name="mixture_1991",
    title="The mixture of 1991",
    teaches="How experts specialise: each learns in proportion to its posterior, and the gate learns to predict it.",
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
    """Token by token: the logarithm of a sum of g_i P_i, with the largest term taken out."""
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


def _draw(rng: np.random.Generator, tokens: int, experts: int, d: int) -> tuple[Any, Any, Any]:
    h, o = 2 * rng.standard_normal((tokens, experts)), rng.standard_normal((tokens, experts, d))
    return h, o, rng.standard_normal((tokens, d))


def typical(rng: np.random.Generator) -> list[Case]:
    return [case(*_draw(rng, *s)) for s in [(4, 3, 2), (2, 5, 3), (3, 2, 4), (1, 4, 1), (3, 3, 3)]]


def larger(rng: np.random.Generator) -> list[Case]:
    return [case(*_draw(rng, *s)) for s in [(70, 33, 3), (3, 130, 9), (2, 3, 140)]]


def one_expert(rng: np.random.Generator) -> list[Case]:
    return [case(*_draw(rng, 3, 1, 2))]


def far(rng: np.random.Generator) -> list[Case]:
    """Targets so far from every expert that every density is 0 in floating point."""
    h, o, y = _draw(rng, 3, 4, 2)
    some = np.array([[0.0], [100.0], [0.0]])
    return [
        case(h, o, y + 15),
        case(h, o, y + 100),
        case(h, 60 * o, y),
        case(h, o, y + some),
        case(h, o, some * np.ones(2)),
    ]


def offset(rng: np.random.Generator) -> list[Case]:
    """Experts and targets far from 0 and near each other; and far from each other."""
    h, o, y = _draw(rng, 3, 4, 2)
    return [case(h, o + 1e5, y + 1e5), case(h, o, y + 1e4)]


def not_a_number(rng: np.random.Generator) -> list[Case]:
    h, o, y = _draw(rng, 3, 4, 2)
    y[1, 0] = np.nan
    return [case(h, o, y)]


def certain(rng: np.random.Generator) -> list[Case]:
    """Gates with huge logits."""
    h, o, y = _draw(rng, 3, 4, 2)
    rows = np.array([[1000.0], [0.0], [-1000.0]])
    sure = np.array([[0.0, -900.0, -900.0, -900.0]] * 3)
    o[:, 1] = y + 0.1 * o[:, 1]
    wrong = case(sure, o + np.array([[[100.0], [0.0], [100.0], [100.0]]]), y)  # only expert 1 is near
    return [wrong, case(1000 * h, o, y), case(h + 1000, o, y), case(h + rows, o, y), case(sure, o, y)]


def fixed_target(rng: np.random.Generator) -> list[Case]:
    """y is data, as in training."""
    return [case(*_draw(rng, 4, 3, 2)).constant(2)]


EMPTY = one_by_one(case(np.zeros((0, 3)), np.zeros((0, 3, 2)), np.zeros((0, 2))))
KNOWN = one_by_one(case(np.zeros((1, 2)), np.array([[[1.0], [-1.0]]]), np.zeros((1, 1))))
NEXT = "dh and do both contain the posterior r"
CHECKS = (
    Check("the loss", 2, typical, "-ln Σ_i g_i P_i per token, then the mean"),
    Check("targets far from every expert", 2, far, "add ln g_i and ln P_i; take the largest out before exp"),
    Check("large targets", 1, offset, "take the difference first: y² - 2 y o + o² loses its digits"),
    Check("NaN shows", 1, not_a_number, "one NaN spoils the mean, and must"),
    Check("far targets in float32", 1, float32(far), "its exponential underflows at -104, not at -746"),
    Check("gates that are certain", 1, certain, "ln g = h - max - ln Σ exp(h - max), which is never ln 0"),
    Check("gradients of gate, experts and target", 3, typical, NEXT, gradient=True),
    Check("one expert", 1, one_expert, "g = r = 1: the gate's gradient is 0", gradient=True),
    Check("gradients far from every expert", 2, far, "r is a softmax of ln g + ln P", gradient=True),
    Check("gradients when the target is data", 1, fixed_target, "dh and do do not change", gradient=True),
    *standard_checks(typical, gradient=NEXT),
    Check("no tokens", 1, EMPTY, "divide by max(T, 1): the loss is 0", gradient=True),
    Check("known values", 1, KNOWN, "by hand: two experts equally far away give ½"),
    Check("larger arrays", 1, larger, "the size changes nothing", gradient=True, finite_differences=False),
)

MISTAKES = edits("""
error of the mean output: ½ ‖y - Σ g o‖² (equation 1.1) makes experts cooperate. Compare each with y on its own.
- -evidence.sum()
+ 0.5 * ((xp.exp(log_g)[:, :, None] * error).sum(axis=1) ** 2).sum()
mean error: ½ Σ g_i ‖y - o_i‖² (equation 1.2) pulls every expert by its g_i, not by its posterior r_i.
- -evidence.sum()
+ 0.5 * (xp.exp(log_g) * (error * error).sum(axis=2)).sum()
forgets the half: P = exp(-‖y - o‖²): the ½ of the Gaussian is missing.
- 0.5 * (error * error).sum(axis=2)
+ (error * error).sum(axis=2)
forgets the gate: -ln Σ P_i: each P_i must be weighted with its g_i.
- log_g - 0.5 * (error * error).sum(axis=2)
+ -0.5 * (error * error).sum(axis=2)
sum of the logarithms: -Σ g_i ln (g_i P_i): the logarithm has moved past the sum. ln Σ is not Σ ln.
- -evidence.sum()
+ -(xp.exp(log_g) * joint).sum()
underflows far away: exp(-5000) is 0, and ln 0 is -∞. Take the largest logarithm out of the sum first.
- xp.exp(joint - top)
+ xp.exp(joint)
- top + xp.log(total)
+ xp.log(total)
sums over tokens: Sums over the tokens. The loss is their mean.
- -evidence.sum() / max(h.shape[0], 1)
+ -evidence.sum()
- grad / max(g.shape[0], 1)
+ grad
gradient not averaged: The 1/T of the mean is missing in backward.
- grad / max(g.shape[0], 1)
+ grad
experts by their gate: do_i = g_i (o_i - y): g is the guess before the target is seen. The posterior r_i belongs here.
- r[:, :, None]
+ g[:, :, None]
all experts alike: do_i = o_i - y without r_i pulls every expert to every target, and none specialises.
- scale * r[:, :, None] * error
+ scale * error
gate without its guess: dh = -r: g comes from the normaliser of the softmax. Without it dh does not sum to 0.
- scale * (g - r)
+ scale * -r
gate away from the posterior: dh = r - g has the wrong sign. Descent moves against the gradient: g comes first.
- scale * (g - r)
+ scale * (r - g)
forgets the target: Returns no gradient for y, which is an input like the others.
- -do.sum(axis=1)
+ None
target of one expert: dy from the first expert only. y was compared with all of them: dy = -Σ_i do_i.
- -do.sum(axis=1)
+ -do[:, 0]
one shift for all: One far token would make all others underflow. Take the largest out per token.
- top = joint.max(axis=1, keepdims=True)
+ top = joint.max(initial=-np.inf)
one shift for all gates: Takes the largest logit of the batch off. Each token needs its own.
- h - h.max(axis=1, keepdims=True)
+ h - h.max(initial=-np.inf)
distance not squared: Takes ‖y - o‖ for ‖y - o‖²: that is no Gaussian.
- 0.5 * (error * error).sum(axis=2)
+ 0.5 * np.sqrt((error * error).sum(axis=2))
mean over dimensions: Averages over the d entries of the error. The Gaussian has the sum.
- 0.5 * (error * error).sum(axis=2)
+ 0.5 * (error * error).mean(axis=2)
leaves NaN out: A token that is NaN has no loss, and the mean has none. nansum hides it.
- -evidence.sum()
+ -np.nansum(evidence)
expands the square: y² - 2 y o + o² loses its digits where y and o are large. Take the difference first.
- (error * error).sum(axis=2)
+ ((o * o).sum(axis=2) - 2 * (o * y[:, None]).sum(axis=2) + (y * y).sum(axis=1)[:, None])
probabilities made safe: ln(g + 1e-9) is not ln g for a gate that is certain. Stay in logarithms.
- e - xp.log(xp.exp(e).sum(axis=1, keepdims=True))
+ xp.log(xp.exp(e) / xp.exp(e).sum(axis=1, keepdims=True) + e.dtype.type(1e-9))
logarithm of the softmax: g of a gate that is sure of another rounds to 0, and ln 0 is -∞. Stay in logarithms.
- e - xp.log(xp.exp(e).sum(axis=1, keepdims=True))
+ xp.log(xp.exp(e) / xp.exp(e).sum(axis=1, keepdims=True))
takes out only below -700: float32 underflows at -104 already. Take the largest out always.
- top = joint.max(axis=1, keepdims=True)
+ top = joint.max(axis=1, keepdims=True); top = top * (top < -700)
""")
