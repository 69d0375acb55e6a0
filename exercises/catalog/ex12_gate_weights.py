"""Exercise 12: gate weights, the scores of the chosen experts divided by their sum."""

from typing import Any

import numpy as np

from moe_numpy.moe.gates import Renormalize

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=12,
    name="gate_weights",
    title="Gate weights, forward and backward",
    teaches="The only way by which a task loss reaches the router, and why one expert per token closes it.",
    difficulty=2,
    minutes=20,
    needs=(5, 11),
    target="moe_numpy.moe.gates:Renormalize",
    imports=("from moe_numpy import kernels",),
    hints=(
        "kernels.sum_by_key(s, token, num_tokens) gives the sum for each token. Indexing it with token copies "
        "each sum to its assignments.",
        "w_m = s_m / (S + ε). dw_m/ds_n = (δ_mn - w_m) / (S + ε) if m and n belong to one token, else 0.",
        "Save w, total = S[token] + ε and token; keep num_tokens. inner = sum_by_key(grad * w, token, num_tokens); "
        "ds = (grad - inner[token]) / total; return ds, None.",
    ),
)


def specification(s: Any, token: Any, *, num_tokens: int, epsilon: float = 0.0) -> Any:
    """For each assignment, look through all others for those of the same token."""
    w = np.zeros(s.shape, s.dtype)
    for n in range(len(s)):
        total = 0.0
        for m in range(len(s)):
            if token[m] == token[n]:
                total += s[m]
        w[n] = s[n] / (total + epsilon)
    return w


def typical(rng: np.random.Generator) -> list[Case]:
    """k experts for each token, ordered by expert: the assignments of a token lie apart."""
    return [_case(rng, np.concatenate([rng.permutation(t) for _ in range(k)]), t) for t, k in [(5, 2), (3, 3), (2, 4)]]


def uneven(rng: np.random.Generator) -> list[Case]:
    """As many experts as a token happens to have: none, one, several."""
    return [
        _case(rng, np.array([0, 2, 5, 2, 0, 2, 3]), 6),
        _case(rng, np.array([4, 4, 1, 4, 4]), 5),
        _case(rng, rng.integers(0, 4, 12), 7),
    ]


def one_each(rng: np.random.Generator) -> list[Case]:
    """One expert for each token: the weight is 1 whatever the score."""
    return [_case(rng, rng.permutation(5), 5), _case(rng, np.array([0]), 1)]


def with_epsilon(rng: np.random.Generator) -> list[Case]:
    """An ε that cannot be overlooked."""
    return [
        _case(rng, np.array([0, 1, 2, 1, 0, 2, 0]), 3, epsilon=0.5),
        _case(rng, rng.permutation(4), 4, epsilon=0.25),
    ]


def zero_scores(rng: np.random.Generator) -> list[Case]:
    """A token whose scores are all 0 stays finite thanks to ε."""
    return [case(np.array([0.0, 0.7, 0.0, 0.4]), np.array([0, 1, 0, 1]), num_tokens=2, epsilon=0.1)]


def empty(rng: np.random.Generator) -> list[Case]:
    """Everything was dropped."""
    return [case(np.zeros(0), np.zeros(0, np.int64), num_tokens=3)]


def _case(rng: np.random.Generator, token: Any, num_tokens: int, **settings: float) -> Case:
    return case(0.1 + rng.random(len(token)), token, num_tokens=num_tokens, **settings)


# Wrong solutions


def _sum(values: Any, token: Any, num_tokens: int) -> Any:
    return np.bincount(token, weights=values, minlength=num_tokens).astype(values.dtype)


class OneSumForAll(Renormalize):
    """Divides by the sum of all scores. Each token has a sum of its own."""

    def forward(self, s: Any, token: Any, *, num_tokens: int, epsilon: float = 0.0) -> Any:
        """Over everything."""
        return super().forward(s, np.zeros_like(token), num_tokens=1, epsilon=epsilon)


class LosesDuplicates(Renormalize):
    """`total[token] += s` adds only one of several scores of a token: an index that occurs twice is written once."""

    def forward(self, s: Any, token: Any, *, num_tokens: int, epsilon: float = 0.0) -> Any:
        """The trap of fancy indexing."""
        self.num_tokens = num_tokens
        sums = np.zeros(num_tokens, s.dtype)
        sums[token] += s
        total = sums[token] + epsilon
        self.save(s / total, total, token)
        return s / total


class AssumesNeighbours(Renormalize):
    """Reshapes to [T, k]. Assignments are ordered by expert, and a token may have any number of them."""

    def forward(self, s: Any, token: Any, *, num_tokens: int, epsilon: float = 0.0) -> Any:
        """A token's scores side by side."""
        side_by_side = np.sort(token)
        return super().forward(s, side_by_side, num_tokens=num_tokens, epsilon=epsilon)


class SoftmaxOfScores(Renormalize):
    """exp(s) / Σ exp(s): the scores are positive already, and are divided as they are."""

    def forward(self, s: Any, token: Any, *, num_tokens: int, epsilon: float = 0.0) -> Any:
        """A second softmax."""
        return super().forward(np.exp(s), token, num_tokens=num_tokens, epsilon=epsilon)


class SumsStayPerToken(Renormalize):
    """Returns S for each token. The weights are wanted for each assignment: s / S[token]."""

    def forward(self, s: Any, token: Any, *, num_tokens: int, epsilon: float = 0.0) -> Any:
        """[T] instead of [N]."""
        super().forward(s, token, num_tokens=num_tokens, epsilon=epsilon)
        return _sum(s, token, num_tokens) + epsilon


class ForgetsEpsilon(Renormalize):
    """Ignores ε: a token whose scores are all 0 becomes 0/0."""

    def forward(self, s: Any, token: Any, *, num_tokens: int, epsilon: float = 0.0) -> Any:
        """ε = 0."""
        return super().forward(s, token, num_tokens=num_tokens)


class EpsilonForEachScore(Renormalize):
    """Adds ε to every score before summing: it enters the sum as often as the token has experts."""

    def forward(self, s: Any, token: Any, *, num_tokens: int, epsilon: float = 0.0) -> Any:
        """k ε."""
        self.num_tokens = num_tokens
        total = _sum(s + epsilon, token, num_tokens)[token]
        self.save(s / total, total, token)
        return s / total


class SumIsAConstant(Renormalize):
    """ds = dw / S: each score is in the sum too, so raising it lowers all weights of its token."""

    def backward(self, grad: Any) -> Any:
        """Without the correction."""
        _, total, _ = self.saved
        return grad / total, None


class DiagonalOnly(Renormalize):
    """ds = dw (1 - w) / S: only how a weight depends on its own score. It depends on the token's others as well."""

    def backward(self, grad: Any) -> Any:
        """Without the neighbours."""
        w, total, _ = self.saved
        return grad * (1 - w) / total, None


class UnweightedSum(Renormalize):
    """ds = (dw - Σ dw) / S: the sum must be weighted with w."""

    def backward(self, grad: Any) -> Any:
        """Σ dw instead of Σ dw w."""
        _, total, token = self.saved
        return (grad - _sum(grad, token, self.num_tokens)[token]) / total, None


class CorrectsOverAllTokens(Renormalize):
    """Takes off Σ dw w of all tokens. Tokens know nothing of each other."""

    def backward(self, grad: Any) -> Any:
        """One sum."""
        w, total, _ = self.saved
        return (grad - (grad * w).sum()) / total, None


class GradientLikeSoftmax(Renormalize):
    """ds = w (dw - Σ dw w): that is softmax. Dividing by the sum has 1/S in front."""

    def backward(self, grad: Any) -> Any:
        """The wrong factor."""
        w, _, token = self.saved
        return w * (grad - _sum(grad * w, token, self.num_tokens)[token]), None


class GradientWithoutEpsilon(Renormalize):
    """Backward takes the weights to sum to 1. With ε they do not."""

    def backward(self, grad: Any) -> Any:
        """With w / Σ w."""
        w, total, token = self.saved
        sums = _sum(w, token, self.num_tokens)[token]
        normalised = w / np.where(sums > 0, sums, 1)
        return (grad - _sum(grad * normalised, token, self.num_tokens)[token]) / total, None


class IgnoresUpstream(Renormalize):
    """Backward works with ones instead of the gradient from above; since the weights sum to 1, it is then zero."""

    def backward(self, grad: Any) -> Any:
        """As if L were Σ w."""
        return super().backward(np.ones_like(grad))


class ComputesInFloat64(Renormalize):
    """np.bincount returns float64, and so does what is divided by it. Bring the sums back to the dtype of s."""

    def forward(self, s: Any, token: Any, *, num_tokens: int, epsilon: float = 0.0) -> Any:
        """Promotes."""
        return super().forward(s.astype(np.float64), token, num_tokens=num_tokens, epsilon=epsilon)


CHECKS = (
    Check("weights of k experts per token", 2, typical, "sum the scores by token, then s / S[token]"),
    Check("any number of experts per token", 2, uneven, "token says what belongs together; nothing is in order"),
    Check("epsilon", 1, with_epsilon, "S + ε, once for each token"),
    Check("a sum of zero", 1, zero_scores, "S + ε does not vanish: no special case is needed", gradient=True),
    Check("gradient", 4, typical, "a score is also in the sum that divides the others", gradient=True),
    Check("gradient with any number of experts", 2, uneven, "sum over the token's own assignments", gradient=True),
    Check("gradient with epsilon", 1, with_epsilon, "S + ε where forward had it", gradient=True),
    Check("one expert per token learns nothing", 1, one_each, "w = 1 whatever s is: the gradient is 0", gradient=True),
    Check("float32", 1, float32(uneven), "np.bincount returns float64"),
    Check("gradient in float32", 1, float32(uneven), "np.bincount returns float64", gradient=True),
    Check("arrays with gaps", 1, strided(typical), "leave s as it is", gradient=True),
    Check("nothing left", 1, empty, "no assignments, no weights"),
    Check(
        "knows the smallest example",
        1,
        one_by_one(case(np.array([0.6, 0.5, 0.2]), np.array([0, 1, 0]), num_tokens=2)),
        "by hand: ¾, 1 and ¼",
    ),
)

MISTAKES = (
    OneSumForAll,
    LosesDuplicates,
    AssumesNeighbours,
    SoftmaxOfScores,
    SumsStayPerToken,
    ForgetsEpsilon,
    EpsilonForEachScore,
    SumIsAConstant,
    DiagonalOnly,
    UnweightedSum,
    CorrectsOverAllTokens,
    GradientLikeSoftmax,
    GradientWithoutEpsilon,
    IgnoresUpstream,
    ComputesInFloat64,
)
