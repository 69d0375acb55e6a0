"""Exercise 43: a gradient through a choice."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=43,
    name="sparse_mixer",
    title="A gradient through a choice: SparseMixer",
    teaches="What is chosen has no derivative; the score of what was chosen has one, if the choice is held constant.",
    difficulty=3,
    minutes=30,
    needs=(5, 11),
    target="moe_numpy.moe.sparse_mixer:SparseMixer",
    imports=("from moe_numpy.kernels import top_k",),
    hints=(
        "Two softmaxes for each token, over other experts each. Write one function that is given the score of the "
        "chosen expert and which experts are left, and call it for a, then for b without a.",
        "An expert j is close where (top - h_j) <= 2 ε max(|h_j|, top). p = exp(h - top) where it is close and left, "
        "0 elsewhere, over its sum. scores[t, a] = p_a[t, a], scores[t, b] = p_b[t, b], and 0 for all others.",
        "Save best and both p. dh = Σ over the two choices c of w (1[j = c] - p_j) with w = grad[t, c] p[t, c]: the "
        "gradient of a softmax of which only the entry c is used.",
    ),
)


def specification(h: Any, *, epsilon: float = 0.01) -> Any:
    """Token by token: look for the best, twice."""
    tokens, experts = h.shape
    if experts < 2:
        raise ValueError("two experts at least")
    scores = np.zeros(h.shape, h.dtype)
    for t in range(tokens):
        left = list(range(experts))
        for _ in range(2):
            chosen = left[0]
            for e in left:
                if h[t, e] > h[t, chosen]:
                    chosen = e
            top = h[t, chosen]
            close = [e for e in left if top - h[t, e] <= 2 * epsilon * max(abs(h[t, e]), top)]
            scores[t, chosen] = 1 / sum(np.exp(min(h[t, e] - top, 0)) for e in close)
            left.remove(chosen)
    return scores


def _logits(rng: np.random.Generator, tokens: int, experts: int, epsilon: float, size: float = 1.0) -> Any:
    """Scores, some of them close, none so near to a tie or to a mask's edge that a small step would change a choice."""
    rows: list[Any] = []
    while len(rows) < tokens:
        h = size * (2 + rng.standard_normal(experts) * rng.choice([0.05, 0.3, 1.0]))
        gaps = np.diff(np.sort(h)) / size
        first, second = np.sort(h)[:-3:-1]
        slack = [abs(top - h - 2 * epsilon * np.maximum(abs(h), top)) for top in (first, second)]
        if gaps.min() > 0.01 and min(s[s > 0].min() for s in slack) > 0.01 * size:
            rows.append(h)
    return np.array(rows)


def typical(rng: np.random.Generator) -> list[Case]:
    """ε so large that some experts are close."""
    sizes = ((5, 4, 0.1), (4, 6, 0.2), (6, 3, 0.15), (3, 2, 0.3), (1, 8, 0.2))
    return [case(_logits(rng, t, e, epsilon), epsilon=epsilon) for t, e, epsilon in sizes]


def nearly_alone(rng: np.random.Generator) -> list[Case]:
    """The default ε: hardly any expert is close, and a score is 1."""
    return [case(_logits(rng, t, e, 0.01)) for t, e in ((6, 4), (3, 8))]


def signs(rng: np.random.Generator) -> list[Case]:
    """Logits below zero: where the best is negative, |h_j| alone decides what is close. And a best of zero."""
    cases = []
    for t, e, epsilon in ((5, 4, 0.2), (4, 5, 0.4)):
        h = _logits(rng, t, e, epsilon)
        cases += [case(-h, epsilon=epsilon), case(np.where(np.arange(e) % 2, -h, h), epsilon=epsilon)]
    zero = np.array([[0.0, -1.0, 0.0, -2.0], [-1.0, 0.0, -0.5, -0.5], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    mixed = np.array([[1.0, -1.0, 0.9, -0.8], [0.5, 0.3, -3.0, 0.1], [-2.0, -2.5, -1.5, -9.0]])
    return [*cases, case(mixed, epsilon=0.45), case(mixed, epsilon=0.26), case(zero), case(zero, epsilon=0.5)]


def everything_close(rng: np.random.Generator) -> list[Case]:
    """ε so large that every expert is close: two plain softmaxes."""
    return [case(_logits(rng, t, e, 5.0), epsilon=5.0) for t, e in ((4, 5), (3, 3))]


def ties(rng: np.random.Generator) -> list[Case]:
    h = rng.integers(1, 4, (12, 6)).astype(float)
    return [case(h, epsilon=e) for e in (0.0, 0.1, 0.25)] + [
        case(np.ones((2, 4)), epsilon=0.0),
        case(np.array([[4.0, 3.0, np.nextafter(3.0, 0), 1.0]]), epsilon=0.125),  # on the edge, and just beyond
    ]


def large(rng: np.random.Generator) -> list[Case]:
    """Scores whose exponential overflows, and experts that are close in proportion and far apart in e^h."""
    return [
        case(_logits(rng, 4, 5, 0.2, 1000.0), epsilon=0.2),
        case(-_logits(rng, 3, 4, 0.2, 3000.0), epsilon=0.2),
        case(np.array([[1e5, 9e4, 8.99e4, 0.0]]), epsilon=0.1),
        case(np.array([[-1e30, 1.0, -2e30, -1e30], [-3e30, -1e30, -1e31, -2e30]])),
        case(np.array([[1.0, -1e30], [-1e30, -1e20]])),
    ]


TOO_FEW = one_by_one(case(np.ones((3, 1))), case(np.ones((0, 1))))
EMPTY = one_by_one(case(np.zeros((0, 4))))
BY_HAND = one_by_one(
    case(np.log([[1.0, 2.0, 5.0]]), epsilon=9.0),
    case(np.array([[10.0, 9.0, 1.0]]), epsilon=0.05),
    case(np.array([[10.0, 9.0, 8.0]]), epsilon=0.01),
)
NEXT = "the masks are constants: only p_c of each choice is used, so dh_j = ds_c p_c (1[j = c] - p_j), for both choices"
CHECKS = (
    Check("the scores of two choices", 4, typical, "a softmax over experts close to the best, then one without it"),
    Check("hardly any expert is close", 1, nearly_alone, "the default is ε = 0.01"),
    Check(
        "scores of both signs", 2, signs, "close: (top - h_j) <= 2 ε max(|h_j|, top); the absolute value of h_j alone"
    ),
    Check("every expert is close", 1, everything_close, "the second softmax is over all but a"),
    Check("ties go to the lowest index", 1, ties, "of equal scores the first is a, the second b"),
    Check("scores of any size", 1, large, "take off the score of the chosen before exp"),
    Check("gradient", 4, typical, NEXT, gradient=True),
    Check("gradient of scores of both signs", 1, signs, NEXT, gradient=True, finite_differences=False),
    Check("gradient where every expert is close", 1, everything_close, NEXT, gradient=True),
    Check("scores of any size in float32", 1, float32(large), "float32 in, float32 out"),
    *standard_checks(everything_close, gradient=NEXT),
    Check("too few experts", 1, TOO_FEW, "two choices need two experts: ValueError"),
    Check("no tokens", 1, EMPTY, "(0, E) in, (0, E) out"),
    Check("known values", 1, BY_HAND, "5/8 for the best and 2/3 for the second, if all are close"),
)

MISTAKES = edits("""
one softmax for both: Takes the second score from the first softmax. It has one of its own, without the best.
- rest[rows, choice] = False
+ pass
scores of all that are close: Only the two chosen experts have a score; what is close merely shares the sum.
- scores[rows, choice] = p[rows, choice]
+ scores = np.where(p > scores, p, scores)
plain softmax: Leaves the mask out: all experts count, not those alone that come close.
- xp.where(close & rest
+ xp.where(rest
close to the best: The second choice is compared with itself, h_b, not with the best.
- h[rows, choice][:, None], rest
+ h[rows, best[:, 0]][:, None], rest
close by epsilon: Compares with ε. Twice ε is how far two jittered scores can be apart.
- 2 * epsilon
+ epsilon
close in absolute terms: Compares differences with 2 ε. It is a share of the scores' size.
- 2 * epsilon * xp.maximum(xp.abs(h), top)
+ 2 * epsilon
close without absolute value: Takes h_j where the contract has |h_j|.
- xp.maximum(xp.abs(h), top)
+ xp.maximum(h, top)
close within rounding: Lets differences of 1e-9 pass. The contract has <= and no tolerance.
- (top - h) <= 2 * epsilon * xp.maximum(xp.abs(h), top)
+ (top - h) <= 2 * epsilon * xp.maximum(xp.abs(h), top) + 1e-9
strictly closer: An expert at the edge is close: <=, and with ε = 0 the chosen expert itself is.
- <= 2 * epsilon
+ < 2 * epsilon
overflows without shift: e¹⁰⁰⁰ overflows. Take off the score of the chosen expert.
- xp.exp(xp.minimum(h - top, 0))
+ xp.exp(h)
raw exponentials: Forgets to divide by the sum over the experts that are close.
- return e / e.sum(axis=1, keepdims=True)
+ return e
divides: Divides by max(|h_j|, top), which is zero where both are: 0 / 0 is not close. Multiply the other side.
- (top - h) <= 2 * epsilon * xp.maximum(xp.abs(h), top)
+ (top - h) / xp.maximum(xp.abs(h), top) <= 2 * epsilon
masks with a number: Puts -10⁹ in the place of the best to find the second. A score may be lower still.
- best = top_k(h, 2)
+ best, rest = top_k(h, 1), h.copy(); rest[rows, best[:, 0]] = -1e9; best = np.hstack([best, top_k(rest, 1)])
straight through: Hands the gradient of each score to its logit as it is. A score moves with all that are close.
- of_chosen = (grad[rows, best[:, c]] * p[rows, best[:, c]])[:, None]
+ of_chosen = grad[rows, best[:, c]][:, None]
- term = -of_chosen * p
+ term = 0 * p
only the chosen logit: s (1 - s) for the chosen and nothing for the rest. They share its sum: - s_c p_j.
- term[rows, best[:, c]] += of_chosen[:, 0]
+ keep = term[rows, best[:, c]] + of_chosen[:, 0]; term = 0 * term; term[rows, best[:, c]] = keep
only the others: Forgets the 1 of the chosen expert: s_c (1[j = c] - p_j).
- term[rows, best[:, c]] += of_chosen[:, 0]
+ pass
first choice only: The second choice has a gradient too; add both up.
- for c, p in enumerate(softmaxes)
+ for c, p in enumerate(softmaxes[:1])
last choice only: Overwrites the first choice's gradient with the second's. Add both up.
- dh = dh + term
+ dh = term
forgets the score: ds_c p_c (1[j = c] - p_j): the factor p_c is missing.
- grad[rows, best[:, c]] * p[rows, best[:, c]]
+ grad[rows, best[:, c]]
all upstream gradients: Sums the upstream gradient over all experts. Those not chosen have the constant score 0.
- grad[rows, best[:, c]] * p[rows, best[:, c]]
+ grad.sum(axis=1) * p[rows, best[:, c]]
ties to the highest: Of equal scores the last comes first. Ties go to the lowest index.
- top_k(h, 2)
+ h.shape[1] - 1 - top_k(h[:, ::-1], 2)
two experts are not enough: Refuses a router of two experts, which can be chosen both.
- h.shape[1] < 2
+ h.shape[1] < 3
""")
