"""Exercise 44: the entropy losses of LIMoE."""

import math
from typing import Any

import numpy as np

from moe_numpy.autodiff import Function, Tensor
from moe_numpy.moe.losses import GlobalEntropy, logits_of
from moe_numpy.moe.routing import Batch, RoutingTrace

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=44,
    name="global_entropy",
    title="LIMoE's entropy losses: the global one",
    teaches="Entropy of the mean against mean of the entropies: experts evenly used, or tokens that are sure.",
    difficulty=2,
    minutes=20,
    needs=(5, 19),
    target="moe_numpy.moe.losses:GlobalEntropy.__call__",
    imports=(
        "from moe_numpy.moe.losses import Entropy, logits_of",
        "from moe_numpy.ops import ReLU, Softmax",
    ),
    hints=(
        "The logits are a Tensor: stay with the ops, and the engine finds the gradient. Softmax, then the mean over "
        "tokens, then the entropy: in another order it is the local loss.",
        "p = Softmax.apply(h, axis=-1); m = p.sum(axis=0) * (1 / n). Entropy.apply(m) is H(m). What is n if there are "
        "no tokens of the modality?",
        "return ReLU.apply(self.tau - Entropy.apply(m)); without tokens take max(n, 1) for n, and 0 for τ.",
    ),
)


def loss_and_gradient(
    solution: Any, logits: Any, modality: Any, tau: float, of: int | None = None, coefficient: float = 0.01
) -> Any:
    """Build the trace, call, and walk back: the value, and the gradient of all logits.

    Raises:
        TypeError: what comes back is no Tensor.
    """
    h = Tensor(logits, requires_grad=True)
    none: Any = None
    batch = Batch(max(len(logits), 1), modality=modality)
    trace = RoutingTrace(h, h, None, h, none, none, none, none, 1.0, batch)
    loss = solution(GlobalEntropy(tau, coefficient, of), trace)
    if not isinstance(loss, Tensor):
        raise TypeError(f"returned a {type(loss).__name__}, expected a Tensor")
    if loss.requires_grad:
        (3.0 * loss).backward()
    return loss.data, np.zeros_like(logits) if h.grad is None else h.grad / 3


def specification(self: Any, trace: Any) -> Any:
    return _Slow.apply(logits_of(trace, self.modality), tau=self.tau)


class _Slow(Function):
    """The loss in loops, and its gradient by finite differences."""

    def forward(self, h: Any, *, tau: float) -> Any:
        self.h, self.tau = h, tau
        return np.asarray(_loss(h.astype(np.float64), tau), h.dtype)

    def backward(self, grad: Any) -> Any:
        h, step = self.h.astype(np.float64), 1e-3
        slopes = np.zeros(h.shape)
        for index in np.ndindex(h.shape):
            at = {}
            for k in (-2, -1, 1, 2):
                moved = h.copy()
                moved[index] += k * step
                at[k] = _loss(moved, self.tau)
            slopes[index] = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)
        return (float(grad) * slopes).astype(self.h.dtype)


def _loss(h: Any, tau: float) -> float:
    if not len(h):
        return 0.0
    mean = [0.0] * h.shape[1]
    for row in h:
        total = sum(math.exp(x - max(row)) for x in row)
        for i, x in enumerate(row):
            mean[i] += math.exp(x - max(row)) / total / len(h)
    return max(0.0, tau + sum(m * math.log(m) for m in mean if m > 0))


def _mixed(rng: np.random.Generator, text: int, images: int) -> Any:
    return rng.permutation(np.repeat([0, 1], [text, images]))


def uneven(rng: np.random.Generator) -> list[Case]:
    """Experts used unevenly, so that the loss is above zero; and one expert alone, whose entropy is 0."""
    cases = []
    for n, e, tau in [(6, 4, 1.3), (5, 3, 1.0), (3, 8, 2.0), (1, 4, 1.35)]:
        logits = rng.standard_normal((n, e)) + np.linspace(0, 3, e)
        cases.append(case(logits, np.zeros(n, np.int64), tau))
    return [*cases, case(rng.standard_normal((3, 1)), np.zeros(3, np.int64), 0.5)]


def even(rng: np.random.Generator) -> list[Case]:
    """Used evenly enough: zero, and no gradient. Each token may be sure of its expert, or of none."""
    sure = 8 * np.eye(4)[rng.permutation(8) % 4]
    return [
        case(sure, np.zeros(8, np.int64), 1.0),
        case(0.1 * rng.standard_normal((6, 4)), np.zeros(6, np.int64), 1.2),
        case(sure + rng.standard_normal((8, 4)), np.zeros(8, np.int64), 0.7),
    ]


def one_modality(rng: np.random.Generator) -> list[Case]:
    """Each modality has a loss of its own; the logits of the other have no gradient."""
    cases = []
    for text, images, of in [(5, 3, 0), (5, 3, 1), (2, 6, 0), (2, 6, 1), (4, 4, None)]:
        modality = _mixed(rng, text, images)
        logits = rng.standard_normal((text + images, 4)) + np.where(modality[:, None] == 0, [3, 0, 0, 0], [0, 0, 2, 0])
        cases.append(case(logits, modality, 1.3, of=of))
    return cases


def without_tokens(rng: np.random.Generator) -> list[Case]:
    """None of this modality, or none at all; the zero has the type of the logits."""
    logits = rng.standard_normal((4, 3))
    cases = [
        case(logits, np.zeros(4, np.int64), 1.0, of=1),
        case(logits, np.ones(4, np.int64), 1.0, of=0),
        case(logits[:0], np.zeros(0, np.int64), 1.0),
        case(logits, None, 2.0, of=1),
        case(logits, None, 2.0, of=0),
    ]
    return [*cases, *(c.float32() for c in cases)]


def far_apart(rng: np.random.Generator) -> list[Case]:
    """Logits whose softmax underflows: an expert that is never used, and large logits that are alike."""
    one = np.zeros((5, 3))
    one[:, 1] = 2000.0
    some = rng.standard_normal((5, 4))
    some[:, 3] -= 3000.0
    return [
        case(one, np.zeros(5, np.int64), 0.5),
        case(some, np.zeros(5, np.int64), 1.3),
        case(rng.standard_normal((4, 3)) + 1e4, np.zeros(4, np.int64), 1.09),
    ]


def thresholds(rng: np.random.Generator) -> list[Case]:
    """τ below and above every entropy, and coefficients, which are somebody else's business."""
    logits = rng.standard_normal((5, 4)) + np.array([2, 0, 0, 0])
    at = np.zeros(5, np.int64)
    return [
        case(logits, at, 0.0),
        case(logits, at, 5.0),
        case(logits, at, 1.35, coefficient=0.5),
        case(logits, at, 1.38, coefficient=3.0),
    ]


HALF = np.log([[3.0, 1.0], [1.0, 1.0]])
BY_HAND = one_by_one(
    case(np.log([[2.0, 1.0, 1.0]] * 2), np.zeros(2, np.int64), 2.0), case(HALF, np.zeros(2, np.int64), 1.0)
)
CHECKS = (
    Check("unevenly used", 4, uneven, "the entropy of the mean of the probabilities", run=loss_and_gradient),
    Check(
        "evenly used is free", 3, even, "the mean first: sure tokens may add up to an even use", run=loss_and_gradient
    ),
    Check(
        "tokens of one modality", 3, one_modality, "logits_of(trace, self.modality), n of them", run=loss_and_gradient
    ),
    Check("no tokens", 1, without_tokens, "0, not τ", run=loss_and_gradient),
    Check("experts that are never used", 1, far_apart, "0 ln 0 is 0", run=loss_and_gradient),
    Check("thresholds", 1, thresholds, "τ is a number of nats; the coefficient comes later", run=loss_and_gradient),
    *standard_checks(one_modality, run=loss_and_gradient),
    Check("known values", 1, BY_HAND, "2 - 1.5 ln 2; and 1 - H(5/8, 3/8)", run=loss_and_gradient),
)

MISTAKES = edits("""
mean of the entropies: That is the local loss: it is small when tokens are sure. Take the mean of p first.
- Entropy.apply(mean_p)
+ Entropy.apply(Softmax.apply(h, axis=-1)) * (1 / max(num_tokens, 1))
no threshold: Goes below zero. Once the experts are used evenly enough, the loss is 0 and pulls no more.
- ReLU.apply((self.tau if num_tokens else 0.0) - Entropy.apply(mean_p))
+ (self.tau if num_tokens else 0.0) - Entropy.apply(mean_p)
punishes even use: H - τ is positive where the experts are used evenly. The loss is τ - H.
- (self.tau if num_tokens else 0.0) - Entropy.apply(mean_p)
+ Entropy.apply(mean_p) - (self.tau if num_tokens else 0.0)
all tokens: Looks at both modalities together. Many text tokens then hide images that share one expert.
- h = logits_of(trace, self.modality)
+ h = trace.logits
the other modality: 0 is text, 1 is images.
- h = logits_of(trace, self.modality)
+ h = logits_of(trace, None if self.modality is None else 1 - self.modality)
divides by all tokens: The mean is over the n tokens of the modality, not over the batch.
- (1 / max(num_tokens, 1))
+ (1 / max(trace.logits.shape[0], 1))
sum for the mean: Without 1/n the entries of m do not add up to 1, and it has no entropy.
- * (1 / max(num_tokens, 1))
+ * 1.0
across the tokens: Normalises over tokens. The probabilities of one token add up to 1: the last axis.
- axis=-1
+ axis=0
mean of the logits: Takes the mean of h. The mean of probabilities is another than the softmax of a mean.
- Softmax.apply(h, axis=-1).sum(axis=0) * (1 / max(num_tokens, 1))
+ Softmax.apply(h.sum(axis=0) * (1 / max(num_tokens, 1)), axis=-1)
pays without tokens: A batch without images owes nothing for images: 0, not τ.
- (self.tau if num_tokens else 0.0)
+ self.tau
everything without modalities: Takes all tokens where the batch names no modalities. They are text then, no images.
- h = logits_of(trace, self.modality)
+ h = trace.logits if trace.batch.modality is None else logits_of(trace, self.modality)
one expert owes nothing: Leaves a single expert out. Its entropy is 0, and the loss τ.
- self.tau if num_tokens else 0.0
+ self.tau if num_tokens and h.shape[1] > 1 else 0.0
a zero in float64: Returns a zero of its own where there are no tokens. It has the type of the logits.
- return ReLU.apply(
+ return Tensor(np.zeros(())) if num_tokens == 0 else ReLU.apply(
in bits: Uses logarithms to base 2. τ is a number of nats.
- Entropy.apply(mean_p)
+ Entropy.apply(mean_p) * (1 / np.log(2.0))
relative to the most: Divides by ln E. τ is a number of nats, not a share.
- Entropy.apply(mean_p)
+ Entropy.apply(mean_p) * (1 / np.log(h.shape[1]))
squares: The loss is τ - H where that is positive, not its square.
- return ReLU.apply((self.tau if num_tokens else 0.0) - Entropy.apply(mean_p))
+ r = ReLU.apply((self.tau if num_tokens else 0.0) - Entropy.apply(mean_p)); return r * r
with the coefficient: The router multiplies by the coefficient; here it would count twice.
- return ReLU.apply((self.tau if num_tokens else 0.0) - Entropy.apply(mean_p))
+ return ReLU.apply((self.tau if num_tokens else 0.0) - Entropy.apply(mean_p)) * self.coefficient
cuts the graph: `.data` is a constant: the value is right, and the router learns nothing from it.
- Entropy.apply(mean_p)
+ Entropy.apply(Tensor(mean_p.data))
counts choices: Counts the best expert of each token. Counts have no gradient; the mean of p has.
- Entropy.apply(mean_p)
+ Entropy.apply((h.data == h.data.max(axis=1, keepdims=True)).sum(axis=0).astype(h.dtype) / max(num_tokens, 1))
""")
