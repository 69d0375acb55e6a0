"""Exercise 19: the load-balancing loss of Switch Transformer, forward and backward."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

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
        "Begin with one part, B = 1: the mean of p over the tokens is a vector of E numbers, f another. With several, "
        "p.reshape(B, -1, E) has the tokens of each part on axis 1.",
        "Backward needs f and the number of tokens, not p: the loss is linear in p. Each token of part b gets the row "
        "E f_b / T, times the gradient from above; f itself is a count and gets None.",
        "Forward: (f * p.reshape(B, -1, E).sum(axis=1) / max(T // B, 1)).sum() * (E / B). Backward: "
        "np.repeat(grad * (E / max(T, 1)) * f, T // B, axis=0).",
    ),
)


def specification(p: Any, f: Any) -> Any:
    """Per part and expert: the mean score times the fraction; summed."""
    parts, num_experts = f.shape
    size = len(p) // parts
    total = 0.0
    for s in range(parts):
        for i in range(num_experts):
            mean = sum(p[t, i] for t in range(s * size, (s + 1) * size)) / max(size, 1)
            total += num_experts * f[s, i] * mean / parts
    return np.asarray(total, p.dtype)


def _case(rng: np.random.Generator, tokens: int, experts: int, parts: int) -> Case:
    return case(rng.dirichlet(np.ones(experts), tokens), rng.dirichlet(np.ones(experts), parts)).constant(1)


def whole(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, t, e, 1) for t, e in [(6, 4), (3, 5), (7, 2), (1, 3), (2, 1), (300, 3)]]


def in_parts(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, *c) for c in [(6, 4, 2), (6, 3, 3), (4, 2, 4), (12, 5, 2), (14, 3, 7), (6, 4, 2)]]


def any_fractions(rng: np.random.Generator) -> list[Case]:
    """Fractions that do not sum to 1, since tokens were dropped, and zeros."""
    c = _case(rng, 6, 4, 2)
    return [case(c.args[0], c.args[1] * np.array([[0.7], [0.4]]) * [1, 0, 1, 1]).constant(1)]


def any_scores(rng: np.random.Generator) -> list[Case]:
    """Scores of exactly 0 where the fraction is not; rows that do not sum to 1; numbers that are no scores at all."""
    c = _case(rng, 6, 3, 2)
    certain = np.eye(3)[[0, 1, 0, 1]]
    return [
        case(certain, np.array([[0.0, 0.0, 1.0]])).constant(1),
        case(certain, np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])).constant(1),
        case(np.eye(100)[[99, 99]], np.eye(100)[[99]]).constant(1),
        case(c.args[0] * rng.uniform(0.2, 3, (6, 1)), c.args[1]).constant(1),
        case(rng.standard_normal((6, 3)), rng.standard_normal((2, 3))).constant(1),
    ]


def any_coefficient(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, 6, 4, 2).upstream(np.asarray(grad)) for grad in (1e6, -1e-6)]


def with_fractions(rng: np.random.Generator) -> list[Case]:
    """The fractions ask for a gradient. They must not get one."""
    return [case(*c.args) for c in (_case(rng, 6, 4, 1), _case(rng, 6, 3, 2))]


KNOWN = one_by_one(
    case(np.full((8, 4), 0.25), np.full((1, 4), 0.25)),
    case(np.array([[0.451, 0.549]]), np.array([[0.9, 0.1]])),
    case(np.eye(2), np.eye(2)),
)
EMPTY = one_by_one(*(case(np.zeros((0, 4)), np.full((parts, 4), 0.25)).constant(1) for parts in (1, 3)))
NEXT = "L is linear in each p_ti: its factor is E f_bi / T. A row per token, the same within a part"
CHECKS = (
    Check("one part", 3, whole, "P is the mean of p over the tokens; multiply with f, sum over experts, times E"),
    Check("several parts", 2, in_parts, "reshape p to (B, T/B, E): each part has its own P; average the B losses"),
    Check("gradient with one part", 3, whole, NEXT, gradient=True),
    Check("gradient with several parts", 2, in_parts, NEXT, gradient=True),
    Check("any coefficient", 1, any_coefficient, "times the gradient from above, whatever it is", gradient=True),
    Check("fractions that do not sum to 1", 1, any_fractions, "multiply with f as it is"),
    Check("scores as they are", 1, any_scores, "clip and normalise nothing: L is linear in p and in f", gradient=True),
    Check("no gradient for the fractions", 2, with_fractions, "backward returns (dp, None)", gradient=True),
    *standard_checks(in_parts, gradient=NEXT),
    Check("no tokens", 1, EMPTY, "divide by max(T/B, 1): 0, not NaN", gradient=True),
    Check("known values", 2, KNOWN, "1 at balance; 0.9216 is possible too; two collapsed parts give 2"),
)

MISTAKES = edits("""
forgets the number of experts: Without the factor E the loss at balance is 1/E: more experts, less loss.
- (num_experts / parts)
+ (1 / parts)
- (f.shape[1] / max(self.num_tokens, 1))
+ (1 / max(self.num_tokens, 1))
sums over tokens: P_i is a mean over the tokens, so that the loss does not grow with the batch.
- .sum(axis=1) / max(self.num_tokens // parts, 1)
+ .sum(axis=1)
- (f.shape[1] / max(self.num_tokens, 1))
+ (f.shape[1] / len(f))
forgets the number of parts: Adds up the losses of the parts. L is their mean: 1/B is missing.
- (num_experts / parts)
+ num_experts
- (f.shape[1] / max(self.num_tokens, 1))
+ (f.shape[1] * len(f) / max(self.num_tokens, 1))
averages before multiplying: Two parts that overload opposite experts cancel if f and P are averaged first.
- self.save(f)
+ f = f.mean(axis=0, keepdims=True); self.save(f)
takes every other token: Deals the tokens out to the parts in turn (reshape(-1, B, E)). A part is T/B tokens in a row.
- p.reshape(parts, -1, num_experts).sum(axis=1)
+ p.reshape(-1, parts, num_experts).sum(axis=0)
- array_namespace(f).repeat(rows, self.num_tokens // f.shape[0], axis=0)
+ np.tile(rows, (self.num_tokens // len(f), 1))
squares the mean: E Σ P²: the counts f are not used. P alone does not know where the tokens really went.
- return (f * mean_p)
+ self.save(mean_p); return (mean_p * mean_p)
chosen experts only: P is the mean of the full softmax: the experts that were not chosen count too.
- self.save(f)
+ self.save(f); p = np.where(p == p.max(axis=1, keepdims=True), p, 0)
softmax of probabilities: p are probabilities already; a second softmax makes them nearly equal.
- self.save(f)
+ self.save(f); p = np.exp(p) / np.exp(p).sum(axis=1, keepdims=True)
differentiates the fractions: Returns dL/df = E P / B too. f is a count, and constant: its gradient is None.
- return (f * mean_p)
+ self.mean = mean_p; return (f * mean_p)
- array_namespace(f).repeat(rows, self.num_tokens // f.shape[0], axis=0), None
+ array_namespace(f).repeat(rows, self.num_tokens // f.shape[0], axis=0), grad * (f.shape[1] / len(f)) * self.mean
gradient of the sum: dL/dp = E f: P is a mean over T tokens, so each of them has a share of 1/T.
- (f.shape[1] / max(self.num_tokens, 1))
+ f.shape[1]
divides by the tokens of a part: dL/dp = E f / (T/B) forgets the mean over the parts. 1/B and 1/(T/B) make 1/T.
- (f.shape[1] / max(self.num_tokens, 1))
+ (f.shape[1] / max(self.num_tokens // len(f), 1))
tiles the parts: Lays the B gradient rows out in turn (np.tile). A part is tokens in a row: np.repeat.
- array_namespace(f).repeat(rows, self.num_tokens // f.shape[0], axis=0)
+ np.tile(rows, (self.num_tokens // len(f), 1))
ignores upstream: Leaves out the gradient from above: the loss enters the total with a coefficient, often 0.01.
- grad * (f.shape[1] / max(self.num_tokens, 1))
+ (f.shape[1] / max(self.num_tokens, 1))
fractions from the scores: Counts the best of p itself. f comes from the caller: it knows what was dispatched.
- self.save(f)
+ best = np.arange(p.shape[1]) == p.argmax(axis=1)[:, None]
+         f = best.reshape(len(f), -1, p.shape[1]).sum(axis=1).astype(p.dtype) / max(len(p) // len(f), 1); self.save(f)
normalises the scores: Divides p by its sum. It comes normalised; rounding is no reason to do so again.
- self.save(f)
+ self.save(f); p = p / p.sum(axis=1, keepdims=True)
keeps scores above zero: A score of 0 is a score. Nothing takes its logarithm, or divides by it.
- self.save(f)
+ self.save(f); p = np.maximum(p, p.dtype.type(1e-8))
normalises the fractions: Divides f by its sum. It is below 1 where tokens were dropped, and stays so.
- self.save(f)
+ f = f / f.sum(axis=1, keepdims=True); self.save(f)
clips the gradient: A gradient is as large as the coefficient makes it.
- rows = grad * (f.shape[1] / max(self.num_tokens, 1)) * f
+ rows = np.clip(grad * (f.shape[1] / max(self.num_tokens, 1)) * f, -100, 100)
backward divides by no tokens: E / T without tokens is a division by zero: max(T, 1).
- max(self.num_tokens, 1)) * f
+ self.num_tokens) * f
first part for all: Multiplies each part with the fractions of the first.
- self.save(f)
+ f = np.repeat(f[:1], len(f), axis=0); self.save(f)
parts in reverse: The gradient of the last part goes to the first tokens.
- array_namespace(f).repeat(rows, self.num_tokens // f.shape[0], axis=0)
+ array_namespace(f).repeat(rows[::-1], self.num_tokens // f.shape[0], axis=0)
mean over experts: Takes the mean over the experts for the sum: the loss at balance is then 1/E.
- (f * mean_p).sum()
+ (f * mean_p).mean()
""")
