"""Exercise 14: the smooth load of noisy top-k."""

from math import erfc
from typing import Any

import numpy as np

from moe_numpy import kernels
from moe_numpy.moe.losses import LoadProbability

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=14,
    name="load_probability",
    title="The load of noisy top-k",
    teaches="How to differentiate a count: ask how likely each choice was, and against whom.",
    difficulty=3,
    minutes=30,
    needs=(11, 13),
    target="moe_numpy.moe.losses:LoadProbability",
    imports=("from scipy.special import ndtr", "from moe_numpy import kernels"),
    preload=("scipy.special",),
    hints=(
        "Leave e out and rank the others. If e is among the k best of all, the k-th of the others is the (k+1)-th of "
        "all. If not, leaving e out changes nothing above it.",
        "rank = kernels.top_k(noisy, k + 1). rival[t, e] = rank[t, k] if e is in rank[t, :k], else "
        "rank[t, k-1]. Keep the index, not only its value: backward needs to know who the threshold was.",
        "z = (h - take_along_axis(noisy, rival, 1)) / sigma; P = ndtr(z). backward: dh = g φ(z) / σ, dσ = -dh z, and "
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


def typical(rng: np.random.Generator) -> list[Case]:
    """T and E differ, k from 1 to E - 1."""
    return [_case(rng, t, e, k) for t, e, k in [(3, 4, 2), (4, 5, 1), (2, 6, 5), (1, 2, 1), (4, 4, 3)]]


def all_rivals(rng: np.random.Generator) -> list[Case]:
    """The k-th of all for everyone."""
    return [_case(rng, t, e, k, rivals="all") for t, e, k in [(3, 4, 2), (4, 5, 1), (2, 3, 3)]]


def everyone(rng: np.random.Generator) -> list[Case]:
    """k = E: nobody is left to be beaten."""
    return [_case(rng, 3, 4, 4), _case(rng, 2, 1, 1)]


def hardly_any_noise(rng: np.random.Generator) -> list[Case]:
    """σ so small that only the chosen have a chance: the load is the count and sums to k."""
    noisy = _apart(rng, 4, 6)
    return [case(noisy, np.full((4, 6), 1e-3), noisy, k=k) for k in (1, 3)]


def ties(rng: np.random.Generator) -> list[Case]:
    """Equal noisy logits: the threshold is the same number whoever holds it."""
    noisy = rng.integers(0, 3, (5, 6)).astype(float)
    return [case(noisy + rng.standard_normal((5, 6)), 0.5 + rng.random((5, 6)), noisy, k=k) for k in (1, 2, 4)]


def empty(rng: np.random.Generator) -> list[Case]:
    """No tokens."""
    return [case(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 4)), k=2)]


def _apart(rng: np.random.Generator, tokens: int, experts: int) -> Any:
    """Rows in random order whose entries lie apart, so that a small step changes no rank."""
    ladder = np.tile(0.5 * np.arange(experts) - 0.25 * experts, (tokens, 1))
    return rng.permuted(ladder, axis=1) + rng.uniform(-0.1, 0.1, (tokens, experts))


def _case(rng: np.random.Generator, tokens: int, experts: int, k: int, **settings: str) -> Case:
    noisy, sigma = _apart(rng, tokens, experts), 0.5 + rng.random((tokens, experts))
    h = noisy - sigma * rng.standard_normal(noisy.shape)
    return case(h, sigma, noisy, k=k, **settings)


# Wrong solutions


def _rank_of(noisy: Any, k: int) -> Any:
    return kernels.top_k(noisy, k)


class _AgainstAnother(LoadProbability):
    """A LoadProbability with another threshold."""

    def _with(self, h: Any, sigma: Any, rival: Any, threshold: Any) -> Any:
        from scipy.special import ndtr  # slow to import, and the list of exercises does not need it

        z = (h - threshold) / sigma
        self.save(z, sigma, np.broadcast_to(rival, h.shape))
        return ndtr(z).astype(h.dtype)


class KthForEveryone(_AgainstAnother):
    """Takes the k-th of all as threshold for the chosen too. They would have to beat each other, or themselves."""

    def forward(self, h: Any, sigma: Any, noisy: Any, *, k: int, rivals: str = "others") -> Any:
        """As if rivals were "all"."""
        return super().forward(h, sigma, noisy, k=k, rivals="all")


class NextForEveryone(_AgainstAnother):
    """Takes the (k+1)-th of all as threshold for everyone. Who was not chosen has to beat the k-th."""

    def forward(self, h: Any, sigma: Any, noisy: Any, *, k: int, rivals: str = "others") -> Any:
        """One rank too low."""
        if rivals == "all" or k == h.shape[1]:
            return super().forward(h, sigma, noisy, k=k, rivals=rivals)
        rival = _rank_of(noisy, k + 1)[:, k:]
        return self._with(h, sigma, rival, np.take_along_axis(noisy, rival, axis=1))


class ThresholdInProbabilities(_AgainstAnother):
    """Compares logits with a threshold from softmax: the scales differ, and the loads do not sum to k."""

    def forward(self, h: Any, sigma: Any, noisy: Any, *, k: int, rivals: str = "others") -> Any:
        """Apples and pears."""
        e = np.exp(noisy - noisy.max(axis=1, keepdims=True, initial=-1e9))
        return super().forward(h, sigma, e / e.sum(axis=1, keepdims=True), k=k, rivals=rivals)


class ThresholdWithoutNoise(_AgainstAnother):
    """Ranks the clean logits. The rivals keep their noise; only e's own is drawn anew."""

    def forward(self, h: Any, sigma: Any, noisy: Any, *, k: int, rivals: str = "others") -> Any:
        """The wrong ranks."""
        return super().forward(h, sigma, h, k=k, rivals=rivals)


class NoisyAgainstThreshold(_AgainstAnother):
    """Φ((noisy - threshold) / σ): e's noise is drawn anew, so its clean logit is the mean."""

    def forward(self, h: Any, sigma: Any, noisy: Any, *, k: int, rivals: str = "others") -> Any:
        """Noise twice."""
        return super().forward(noisy, sigma, noisy, k=k, rivals=rivals)


class LogisticForNormal(_AgainstAnother):
    """The logistic sigmoid instead of Φ. The noise is normal: its distribution function is Φ."""

    def forward(self, h: Any, sigma: Any, noisy: Any, *, k: int, rivals: str = "others") -> Any:
        """Another S."""
        p = super().forward(h, sigma, noisy, k=k, rivals=rivals)
        return (1 / (1 + np.exp(-self.saved[0]))).astype(h.dtype) if self.saved else p


class UpperTail(_AgainstAnother):
    """1 - Φ is the probability to fall below the threshold."""

    def forward(self, h: Any, sigma: Any, noisy: Any, *, k: int, rivals: str = "others") -> Any:
        """The other side."""
        return 1 - super().forward(h, sigma, noisy, k=k, rivals=rivals)


class NobodyLeftNoThreshold(_AgainstAnother):
    """With k = E there is no (k+1)-th: indexing it fails. There is nothing to beat, so the probability is 1."""

    def forward(self, h: Any, sigma: Any, noisy: Any, *, k: int, rivals: str = "others") -> Any:
        """Without the special case."""
        if rivals == "others" and k == h.shape[1]:
            raise IndexError(f"index {k} is out of bounds for axis 1 with size {k}")
        return super().forward(h, sigma, noisy, k=k, rivals=rivals)


class ThresholdIsAConstant(_AgainstAnother):
    """No gradient for the noisy logits. The threshold is one of them: raising it makes all its rivals less likely."""

    def backward(self, grad: Any) -> Any:
        """Zero."""
        dh, dsigma, d_noisy = super().backward(grad)
        return dh, dsigma, np.zeros_like(d_noisy)


class LosesDuplicates(_AgainstAnother):
    """`d_noisy[rows, rival] -= dh` keeps one of the many experts with one threshold. np.add.at adds all."""

    def backward(self, grad: Any) -> Any:
        """The trap of fancy indexing."""
        dh, dsigma, d_noisy = super().backward(grad)
        lost = np.zeros_like(d_noisy)
        lost[np.arange(len(lost))[:, None], self.saved[2]] -= dh
        return dh, dsigma, lost


class ThresholdGradientAtItsOwnPlace(_AgainstAnother):
    """Gives -dh to e's own noisy logit. It belongs to the logit that was e's threshold."""

    def backward(self, grad: Any) -> Any:
        """In the wrong column."""
        dh, dsigma, _ = super().backward(grad)
        return dh, dsigma, -dh


class DensityWithoutItsFactor(_AgainstAnother):
    """exp(-z²/2) lacks the 1/√(2π) of the normal density."""

    def backward(self, grad: Any) -> Any:
        """2.5 times too large."""
        return super().backward(grad * (2 * np.pi) ** 0.5)


class SigmaGradientFlipped(_AgainstAnother):
    """dσ = +g φ(z) z / σ: σ divides, so dz/dσ = -z / σ."""

    def backward(self, grad: Any) -> Any:
        """The wrong sign."""
        dh, dsigma, d_noisy = super().backward(grad)
        return dh, -dsigma, d_noisy


CHECKS = (
    Check("what each expert has to beat", 4, typical, "the (k+1)-th if it was chosen itself, else the k-th"),
    Check("without noise the load is the count", 1, hardly_any_noise, "clean logits, threshold from noisy ones"),
    Check("all are rivals", 1, all_rivals, 'rivals="all": the k-th of all for everyone'),
    Check("nobody left to beat", 1, everyone, "k = E gives ones"),
    Check("ties", 1, ties, "kernels.top_k decides ties; the number at rank k is what counts"),
    Check("gradients", 4, typical, "z = (h - threshold) / σ depends on all three", gradient=True),
    Check("gradients when all are rivals", 1, all_rivals, "an expert can be its own threshold", gradient=True),
    Check(
        "gradients at ties",
        1,
        ties,
        "the threshold belongs to the expert that top_k ranks there",
        gradient=True,
        finite_differences=False,
    ),
    Check("float32", 1, float32(typical), "everything stays float32"),
    Check("gradients in float32", 1, float32(typical), "everything stays float32", gradient=True),
    Check("arrays with gaps", 1, strided(typical), "leave the inputs as they are", gradient=True),
    Check("no tokens", 1, empty, "(0, E) in, (0, E) out"),
    Check(
        "knows the smallest example",
        1,
        one_by_one(case(np.array([[1.0, 1.0]]), np.ones((1, 2)), np.array([[1.0, 0.0]]), k=1)),
        "by hand: expert 0 must beat 0, expert 1 must beat 1: Φ(1) and Φ(0) = ½",
    ),
)

MISTAKES = (
    KthForEveryone,
    NextForEveryone,
    ThresholdInProbabilities,
    ThresholdWithoutNoise,
    NoisyAgainstThreshold,
    LogisticForNormal,
    UpperTail,
    NobodyLeftNoThreshold,
    ThresholdIsAConstant,
    LosesDuplicates,
    ThresholdGradientAtItsOwnPlace,
    DensityWithoutItsFactor,
    SigmaGradientFlipped,
)
