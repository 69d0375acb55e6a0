"""Exercise 28: the gate of the Switch transformer."""

from typing import Any

import numpy as np

from moe_numpy.moe.gates import PickScores

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=28,
    name="switch",
    title="The gate of the Switch transformer",
    teaches="y = p_i f_i(x): the raw probability of the chosen expert, not renormalised, is how the router learns.",
    difficulty=1,
    minutes=10,
    needs=(5, 11),
    target="moe_numpy.moe.gates:PickScores",
    hints=(
        "Forward is one line of indexing. token and expert are constants: their gradients are None.",
        "p[token, expert] reads N entries. Backward needs the same two arrays and the shape of p: save them.",
        "dp = np.zeros(self.shape, dtype=grad.dtype); dp[token, expert] = grad; return dp, None, None. No pair occurs "
        "twice, so nothing has to be added up.",
    ),
)


def specification(p: Any, token: Any, expert: Any) -> Any:
    """Read one probability after the other."""
    s = np.zeros(len(token), p.dtype)
    for n in range(len(token)):
        s[n] = p[token[n], expert[n]]
    return s


def _softmax(h: Any) -> Any:
    e = np.exp(h - h.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _switch(rng: np.random.Generator, tokens: int, experts: int) -> Case:
    """Softmax, arg-max, one expert for each token."""
    p = _softmax(rng.standard_normal((tokens, experts)))
    return case(p, np.arange(tokens), p.argmax(axis=1))


def switch(rng: np.random.Generator) -> list[Case]:
    """One expert for each token: the most probable."""
    return [_switch(rng, t, e) for t, e in [(6, 4), (3, 5), (4, 2), (5, 5)]]


def any_pairs(rng: np.random.Generator) -> list[Case]:
    """Any pairs, none twice, in any order: k > 1, expert choice, or what hashing chose."""
    cases = []
    for t, e, n in [(5, 4, 9), (3, 6, 7), (7, 3, 4)]:
        pairs = rng.permutation(t * e)[:n]
        cases.append(case(_softmax(rng.standard_normal((t, e))), pairs // e, pairs % e))
    return cases


def small(rng: np.random.Generator) -> list[Case]:
    """One token, one expert; no assignments; no tokens."""
    none = np.zeros(0, np.int64)
    one = np.zeros(1, np.int64)
    return [case(np.ones((1, 1)), one, one), case(rng.random((3, 2)), none, none), case(np.zeros((0, 4)), none, none)]


# Wrong solutions


def _pairs(op: PickScores) -> tuple[Any, Any]:
    """token and expert, out of the flat index that the library's forward saves."""
    (at,) = op.saved
    return at // op.shape[1], at % op.shape[1]


class AlwaysOne(PickScores):
    """Divides by the token's sum, which with one expert is the score itself: the gate is 1 and learns nothing."""

    def forward(self, p: Any, token: Any, expert: Any) -> Any:
        """Renormalised over one."""
        return super().forward(p, token, expert) / p[token, expert]


class ReadsTheLargest(PickScores):
    """Reads the token's largest score. Who was chosen is an argument: a second choice, or a hash, has another."""

    def forward(self, p: Any, token: Any, expert: Any) -> Any:
        """Whatever expert says."""
        return super().forward(p, token, p.argmax(axis=1)[token])


class IgnoresTheToken(PickScores):
    """Takes entry n for token n. That holds only while each token has one expert, in order."""

    def forward(self, p: Any, token: Any, expert: Any) -> Any:
        """p[arange(N), expert]."""
        return super().forward(p, np.arange(len(token)) % max(len(p), 1), expert)


class PicksARectangle(PickScores):
    """p[token][:, expert] is every token with every expert. Two index arrays side by side pair up: p[token, expert]."""

    def forward(self, p: Any, token: Any, expert: Any) -> Any:
        """A matrix."""
        super().forward(p, token, expert)
        return p[token][:, expert]


class ComputesInFloat64(PickScores):
    """Returns float64 for float32 probabilities, and everything behind it becomes float64 too."""

    def forward(self, p: Any, token: Any, expert: Any) -> Any:
        """Promotes."""
        return super().forward(p.astype(np.float64), token, expert)


class GradientToEveryExpert(PickScores):
    """Spreads the gradient over all experts of the token. Only the chosen entry was read: the others get 0."""

    def backward(self, grad: Any) -> Any:
        """A whole row for each assignment."""
        token, _ = _pairs(self)
        dp = np.zeros(self.shape, grad.dtype)
        np.add.at(dp, token, grad[:, None])
        return dp, None, None


class NoGradientForTheRouter(PickScores):
    """Treats the gate as a constant. The choice is one; the probability is the only way to the router."""

    def backward(self, grad: Any) -> Any:
        """Zeros."""
        return np.zeros(self.shape, grad.dtype), None, None


class IgnoresUpstream(PickScores):
    """Writes 1 instead of the gradient from above."""

    def backward(self, grad: Any) -> Any:
        """As if L were Σ s."""
        return super().backward(np.ones_like(grad))


class SoftmaxTwice(PickScores):
    """Multiplies with p (1 - p): the derivative of softmax. That is the next op's work; here p itself is the input."""

    def forward(self, p: Any, token: Any, expert: Any) -> Any:
        """Remember s."""
        self.s = super().forward(p, token, expert)
        return self.s

    def backward(self, grad: Any) -> Any:
        """With a factor too many."""
        return super().backward(grad * self.s * (1 - self.s))


class OneAssignmentForEachToken(PickScores):
    """Writes into the token's row, cleared first: of a token with two experts only the last gets its gradient."""

    def backward(self, grad: Any) -> Any:
        """Row by row."""
        token, expert = _pairs(self)
        dp = np.zeros(self.shape, grad.dtype)
        for n in range(len(token)):
            dp[token[n]] = 0
            dp[token[n], expert[n]] = grad[n]
        return dp, None, None


class GradientOnTheDiagonal(PickScores):
    """Puts gradient n into row n: it belongs into the row of token n's entry, dp[token_n, expert_n]."""

    def backward(self, grad: Any) -> Any:
        """Without looking at token."""
        _, expert = _pairs(self)
        dp = np.zeros(self.shape, grad.dtype)
        if len(dp):
            np.add.at(dp, (np.arange(len(grad)) % len(dp), expert), grad)
        return dp, None, None


NEXT = "s_n is the entry (token_n, expert_n) of p and nothing else: that entry gets ds_n, all others 0"


CHECKS = (
    Check("forward, one expert for each token", 2, switch, "the probability as it is: do not renormalise"),
    Check("forward, any pairs", 2, any_pairs, "p indexed with two integer arrays pairs them up"),
    Check("forward in float32", 1, float32(any_pairs), "float32 in, float32 out"),
    Check("gradient, one expert for each token", 3, switch, NEXT, gradient=True),
    Check("gradient, any pairs", 3, any_pairs, NEXT, gradient=True),
    Check("gradient in float32", 1, float32(any_pairs), NEXT, gradient=True),
    Check("gradient of arrays with gaps", 1, strided(any_pairs), NEXT, gradient=True),
    Check("gradient of the smallest", 1, small, "an expert that nobody chose gets 0, not None", gradient=True),
    Check(
        "known values",
        1,
        one_by_one(case(np.array([[0.7, 0.3], [0.1, 0.9]]), np.array([0, 1]), np.array([0, 1]))),
        "0.7 and 0.9, not 1 and 1",
    ),
)

MISTAKES = (
    AlwaysOne,
    ReadsTheLargest,
    IgnoresTheToken,
    PicksARectangle,
    ComputesInFloat64,
    GradientToEveryExpert,
    NoGradientForTheRouter,
    IgnoresUpstream,
    SoftmaxTwice,
    OneAssignmentForEachToken,
    GradientOnTheDiagonal,
)
