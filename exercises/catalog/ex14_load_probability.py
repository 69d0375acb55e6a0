"""Exercise 14: the smooth load of noisy top-k."""

from math import erfc
from typing import Any

import numpy as np

from ..exercise import Case, Cases, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=14,
    name="load_probability",
    title="The load of noisy top-k",
    teaches="How to differentiate a count: take the probability of each choice in place of the choice itself.",
    difficulty=3,
    minutes=30,
    needs=(11, 13),
    target="moe_numpy.moe.losses:LoadProbability",
    imports=("from scipy.special import ndtr", "from moe_numpy.kernels import top_k"),
    preload=("scipy.special",),
    hints=(
        "Leave e out and rank the others. If e is among the k best of all, the k-th of the others is the (k+1)-th of "
        "all. If not, leaving e out changes nothing above it.",
        "rank = top_k(noisy, k + 1). rival[t, e] = rank[t, k] if e is in rank[t, :k], else rank[t, k-1]. Keep the "
        "index, not only its value: backward needs to know whose logit was the threshold.",
        "z = (h - take_along_axis(noisy, rival, 1)) / sigma; P = ndtr(z). Backward: dh = g φ(z) / σ, dσ = -dh z, and "
        "-dh added at [t, rival] of d_noisy with np.add.at, since many experts share a threshold.",
    ),
)


def specification(h: Any, sigma: Any, noisy: Any, *, k: int, rivals: str = "others") -> Any:
    """Leave e out, sort the others, and see what e has to beat."""
    p = np.ones(h.shape, h.dtype)
    num_experts = h.shape[1]
    for t in range(len(h)):
        for e in range(num_experts):
            against = [noisy[t, j] for j in range(num_experts) if rivals == "all" or j != e]
            if len(against) < k:
                continue
            threshold = sorted(against, reverse=True)[k - 1]
            p[t, e] = 0.5 * erfc(-(h[t, e] - threshold) / sigma[t, e] / 2**0.5)
    return p


def _apart(rng: np.random.Generator, tokens: int, experts: int) -> Any:
    """Rows in random order whose entries lie apart, so that a small step changes no rank."""
    ladder = np.tile(0.5 * np.arange(experts) - 0.25 * experts, (tokens, 1))
    return rng.permuted(ladder, axis=1) + rng.uniform(-0.1, 0.1, (tokens, experts))


def _case(rng: np.random.Generator, tokens: int, experts: int, k: int, **settings: str) -> Case:
    noisy, sigma = _apart(rng, tokens, experts), 0.5 + rng.random((tokens, experts))
    h = noisy - sigma * rng.standard_normal(noisy.shape)
    return case(h, sigma, noisy, k=k, **settings)


def typical(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, t, e, k) for t, e, k in [(3, 4, 2), (4, 5, 1), (2, 6, 5), (1, 2, 1), (4, 4, 3)]]


def all_rivals(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, t, e, k, rivals="all") for t, e, k in [(3, 4, 2), (4, 5, 1), (2, 3, 3)]]


def everyone(rng: np.random.Generator) -> list[Case]:
    """k = E: no rival is left to beat."""
    return [_case(rng, 3, 4, 4), _case(rng, 2, 1, 1)]


def in_both_types(cases: Cases) -> Cases:
    return lambda rng: [v for c in cases(rng) for v in (c, c.float32())]


def larger(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, 70, 33, 5), _case(rng, 3, 140, 90), _case(rng, 40, 66, 3, rivals="all")]


def hardly_any_noise(rng: np.random.Generator) -> list[Case]:
    """σ so small that only the chosen have a chance: the load is the count and sums to k."""
    noisy = _apart(rng, 4, 6)
    return [case(noisy, np.full((4, 6), 1e-3), noisy, k=k) for k in (1, 3)]


def small_numbers(rng: np.random.Generator) -> list[Case]:
    """Logits and noise a thousand times smaller: the same probabilities."""
    return [case(*(1e-3 * a for a in c.args), **c.settings) for c in typical(rng)]


def ties(rng: np.random.Generator) -> list[Case]:
    """Equal noisy logits: the threshold is the same number whoever holds it."""
    noisy = rng.integers(0, 3, (5, 6)).astype(float)
    return [case(noisy + rng.standard_normal((5, 6)), 0.5 + rng.random((5, 6)), noisy, k=k) for k in (1, 2, 4)]


def nearly_equal(rng: np.random.Generator) -> list[Case]:
    """Noisy logits that are equal in float32."""
    noisy = 1.0 + 1e-9 * rng.permuted(np.tile(np.arange(6.0), (4, 1)), axis=1)
    return [case(noisy + rng.standard_normal((4, 6)), 0.5 + rng.random((4, 6)), noisy, k=k) for k in (1, 2, 4)]


def _scaled(c: Case, scale: Any) -> Case:
    return case(*(scale * a for a in c.args), **c.settings)


def any_size(rng: np.random.Generator) -> list[Case]:
    """Logits and noise of any size: the same probabilities."""
    sizes = [1e15, 1e-15, np.array([[1e-6], [1.0], [1e6]])]
    return [
        _scaled(_case(rng, 3, 4, k, rivals=r), s) for s in sizes for k, r in [(2, "others"), (3, "others"), (2, "all")]
    ]


def many_experts(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, 1, 300, k) for k in (1, 270)]


def backward_alone(solution: Any, h: Any, sigma: Any, noisy: Any, grad: Any, *, k: int) -> Any:
    """The three gradients, zeros for None."""
    op = solution()
    op.forward(h, sigma, noisy, k=k)
    return tuple(np.zeros_like(h) if g is None else g for g in op.backward(grad))


def everyone_backward(rng: np.random.Generator) -> list[Case]:
    return [case(*c.args, np.ones(c.args[0].shape), **c.settings) for c in everyone(rng)]


EMPTY = one_by_one(case(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 4)), k=2))
KNOWN = one_by_one(case(np.array([[1.0, 1.0]]), np.ones((1, 2)), np.array([[1.0, 0.0]]), k=1))
NEXT = "z = (h - threshold) / σ depends on all three arguments"
CHECKS = (
    Check("what each expert has to beat", 4, typical, "the (k+1)-th if it was chosen itself, else the k-th"),
    Check("without noise the load is the count", 1, hardly_any_noise, "clean logits, threshold from noisy ones"),
    Check("all are rivals", 1, all_rivals, 'rivals="all": the k-th of all for everyone'),
    Check("no rival left to beat", 1, in_both_types(everyone), "k = E gives ones"),
    Check("small logits, small noise", 1, small_numbers, "z = (h - threshold) / σ and nothing else"),
    Check(
        "logits of any size",
        1,
        any_size,
        "no number is small enough to mask a logit with, except -∞",
        gradient=True,
        finite_differences=False,
    ),
    Check("many experts", 1, many_experts, "a rank can be larger than 255"),
    Check("ties", 1, ties, "top_k decides ties; only the number at rank k counts"),
    Check("gradients", 3, typical, NEXT, gradient=True),
    Check("gradients when all are rivals", 1, all_rivals, "an expert can be its own threshold", gradient=True),
    Check("gradients at ties", 1, ties, "top_k says whose threshold it is", gradient=True, finite_differences=False),
    Check(
        "gradients of logits nearly equal",
        1,
        nearly_equal,
        "rank the noisy logits as they are",
        gradient=True,
        finite_differences=False,
    ),
    *standard_checks(typical, gradient=NEXT),
    Check(
        "gradients without a rival",
        1,
        everyone_backward,
        "P = 1 is constant: no gradient",
        backward_alone,
        second_oracle=False,
    ),
    Check("no tokens", 1, EMPTY, "(0, E) in, (0, E) out", gradient=True),
    Check("known values", 1, KNOWN, "by hand: expert 0 must beat 0, expert 1 must beat 1: Φ(1) and Φ(0) = ½"),
    Check(
        "larger arrays",
        1,
        larger,
        "one row after the other; the size changes nothing",
        gradient=True,
        finite_differences=False,
    ),
)

MISTAKES = edits("""
kth for everyone: Takes the k-th of all for the chosen too. They would have to beat each other, or themselves.
- xp.where(chosen, rank[:, k : k + 1], rank[:, k - 1 : k])
+ xp.broadcast_to(rank[:, k - 1 : k], h.shape)
next for everyone: Takes the (k+1)-th of all for everyone. An expert that was not chosen has to beat the k-th.
- xp.where(chosen, rank[:, k : k + 1], rank[:, k - 1 : k])
+ xp.broadcast_to(rank[:, k : k + 1], h.shape)
threshold in probabilities: Compares logits with a softmax: the scales differ, and the loads do not sum to k.
- xp.take_along_axis(noisy, rival, axis=1)
+ xp.take_along_axis(np.exp(noisy) / np.exp(noisy).sum(axis=1, keepdims=True), rival, axis=1)
threshold without noise: Ranks the clean logits. The rivals keep their noise; only e's own is drawn anew.
- xp = array_namespace(h)
+ xp, noisy = array_namespace(h), h
noisy against threshold: Φ((noisy - threshold) / σ): e's noise is drawn anew, so its clean logit is the mean.
- z = (h - xp
+ z = (noisy - xp
logistic for normal: The logistic sigmoid instead of Φ. The noise is normal: its distribution function is Φ.
- normal_cdf(z)
+ 1 / (1 + np.exp(-z))
upper tail: 1 - Φ is the probability of falling below the threshold.
- normal_cdf(z)
+ 1 - normal_cdf(z)
nobody left no threshold: With k = E there is no (k+1)-th, and indexing it fails. Nothing has to be beaten: P = 1.
- rank[:, k : k + 1], rank
+ rank[:, k][:, None], rank
- elif k == h.shape[1]:
+ elif False:
threshold is a constant: No gradient for the noisy logits: raising a threshold makes its rivals less likely.
- add_along_rows(-dh, rival, z.shape[1])
+ np.zeros_like(dh)
loses duplicates: `y[rows, rival] += -dh` keeps one of the many experts with one threshold. np.add.at adds all.
- np.add.at(y, (np.arange(len(values))[:, None], column), values)
+ y[np.arange(len(values))[:, None], column] += values
threshold gradient at its own place: Gives -dh to e's own noisy logit, not to the logit that was e's threshold.
- add_along_rows(-dh, rival, z.shape[1])
+ -dh
density without its factor: exp(-z²/2) lacks the 1/√(2π) of the normal density.
- xp.exp(-z * z / 2) * (2 * xp.pi) ** -0.5
+ xp.exp(-z * z / 2)
sigma gradient flipped: dσ = +g φ(z) z / σ: σ divides, so dz/dσ = -z / σ.
- return dh, -dh * z,
+ return dh, dh * z,
chosen by value: Every logit equal to the k-th counts as chosen: at ties more than k. top_k decides ties.
- chosen[xp.arange(h.shape[0])[:, None], rank[:, :k]] = True
+ chosen[...] = noisy >= xp.take_along_axis(noisy, rank[:, k - 1 : k], axis=1)
normal by a tanh: ½ (1 + tanh(...)) is the approximation of GELU: near Φ, and not Φ.
- normal_cdf(z)
+ 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
size of the rival's noise: Divides by the σ of the threshold's expert. e's own noise is drawn anew.
- axis=1)) / sigma
+ axis=1)) / xp.take_along_axis(sigma, rival, axis=1)
gradient without sigma: dh = g φ(z): z has the factor 1/σ.
- (2 * xp.pi) ** -0.5 / sigma
+ (2 * xp.pi) ** -0.5
masks with a large number: Some logits are below -10⁹. Take e out of its row, or set it to -∞.
- z = (h - xp.take_along_axis(noisy, rival, axis=1)) / sigma
+ z = (h - xp.maximum(xp.take_along_axis(noisy, rival, axis=1), -1e9).astype(h.dtype)) / sigma
ranks in float32: Logits that differ by 10⁻⁹ become equal, and another one gets the gradient.
- rank = top_k(noisy, k + 1)
+ rank = top_k(noisy.astype(np.float32), k + 1)
ranks in eight bits: An expert's number can be larger than 255: uint8 wraps around.
- rank = top_k(noisy, k + 1)
+ rank = top_k(noisy, k + 1).astype(np.uint8)
float64 where nobody is left: np.ones makes float64 of float32. np.ones_like keeps it.
- return xp.ones_like(h)
+ return xp.ones(h.shape)
backward without a forward: With k = E forward returns early, and backward finds nothing saved. P = 1 has gradient 0.
- if not self.saved:
+ if False:
a floor under sigma: max(σ, 0.01): the noise may be as small as it likes.
- axis=1)) / sigma
+ axis=1)) / xp.maximum(sigma, sigma.dtype.type(0.01))
""")
