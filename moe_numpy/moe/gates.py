"""Gate weights: what the scores of the chosen experts become.

A router scores every expert for every token, h = x W_gᵀ. It turns logits into scores, chooses some experts, and
multiplies what they return by gate weights g. The choice is a constant for the derivative. The gate weights are the
only path by which the task loss reaches W_g.
"""

import math
from typing import Any

from array_api_compat import array_namespace

from ..autodiff import Function, Tensor, decisions
from ..kernels import max_by_key, scatter, sum_by_key, take_rows
from ..ops import Multiply
from ..typing import Array, Float, Int


class SqrtSoftplus(Function):
    """s = √ln(1 + e^h): a score without an upper bound, flatter than softplus (DeepSeek-V4; Megatron-LM)."""

    words = "√softplus"

    def forward(self, h: Float[Array, "T E"]) -> Float[Array, "T E"]:
        xp = array_namespace(h)
        self.dtype = h.dtype
        h = h.astype(xp.result_type(h.dtype, xp.float32), copy=False)
        s = xp.sqrt(xp.logaddexp(h, xp.zeros_like(h)))
        self.save(s)
        return s.astype(self.dtype, copy=False)

    def backward(self, grad: Float[Array, "T E"]) -> Any:
        """ds/dh = σ(h) / (2 s), where σ(h) = 1 - exp(-s²)."""
        (s,) = self.saved
        xp = array_namespace(s)
        tiny = float(xp.finfo(s.dtype).tiny)  # where e^h underflows, s = 0 and so is ds/dh
        return (grad * -xp.expm1(-s * s) / (2 * xp.maximum(s, tiny))).astype(self.dtype, copy=False)


class PickScores(Function):
    """s_n = p[token_n, expert_n]: the scores of the chosen experts."""

    def forward(self, p: Float[Array, "T E"], token: Int[Array, " N"], expert: Int[Array, " N"]) -> Float[Array, " N"]:
        """Read one entry of p for each assignment, whatever the others are; no (token, expert) pair occurs twice."""
        at = token * p.shape[1] + expert
        self.save(at)
        self.shape = p.shape
        return take_rows(p.reshape(-1), at)

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None, None]:
        """dp[token_n, expert_n] = ds_n; zero, not missing, where an expert was not chosen."""
        (at,) = self.saved
        num_tokens, num_experts = self.shape
        dp = scatter(grad, at, num_tokens * num_experts)
        return dp.reshape(self.shape), None, None


def ones_for_zeros(s: Float[Array, " N"], token: Int[Array, " N"], num_tokens: int) -> Float[Array, " N"]:
    """The scores, with 1 in place of 0 where all scores of a token are 0, as where a softmax underflowed."""
    xp = array_namespace(s)
    largest = take_rows(max_by_key(xp.abs(s), token, num_tokens), token)
    return xp.where(largest == 0, xp.ones_like(s), s)


class Renormalize(Function):
    """g_n = s_n / (Σ_m s_m + ε), with m over the assignments of the same token.

    With one expert per token g is constantly 1 and its derivative 0: the router then learns nothing from the
    task. Mixtral (Jiang et al. 2024), GShard (Lepikhin et al. 2020), DeepSeek-V3 (2024, equation 13).
    """

    words = "normalised"

    def forward(
        self, s: Float[Array, " N"], token: Int[Array, " N"], *, num_tokens: int, epsilon: float = 0.0
    ) -> Float[Array, " N"]:
        """Divide by the token's sum. Without ε, scores of a token that are all 0 count as 1: equal weights."""
        self.num_tokens = num_tokens
        if not epsilon:
            s = ones_for_zeros(s, token, num_tokens)
        total = take_rows(sum_by_key(s, token, num_tokens), token)
        if epsilon:
            total = total + epsilon
        g = s / total
        self.save(g, total, token)
        return g

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """ds_n = (dg_n - Σ_m dg_m g_m) / (Σ_m s_m + ε), with m over the assignments of the same token."""
        g, total, token = self.saved
        inner = take_rows(sum_by_key(grad * g, token, self.num_tokens), token)
        return (grad - inner) / total, None


class DivideByAtLeast(Function):
    """g_n = s_n / max(Σ_m s_m, least), with m over the assignments of the same token (ERNIE 4.5, 2025)."""

    words = "normalised, sum ≥ {least:g}"

    def forward(
        self, s: Float[Array, " N"], token: Int[Array, " N"], *, num_tokens: int, least: float
    ) -> Float[Array, " N"]:
        """Divide by the token's sum, or by ``least`` if that is more."""
        self.num_tokens = num_tokens
        total = take_rows(sum_by_key(s, token, num_tokens), token)
        above = total > least
        decisions.record("sums above the least", above, lambda n: f"assignment {n}: a sum of {float(total[n]):.6g}")
        total = array_namespace(s).where(above, total, least).astype(s.dtype, copy=False)
        g = s / total
        self.save(g, total, token, above)
        return g

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """ds_n = (dg_n - Σ_m dg_m g_m) / Σ_m s_m where the sum is above ``least``, else dg_n / least."""
        g, total, token, above = self.saved
        inner = take_rows(sum_by_key(grad * g, token, self.num_tokens), token)
        return (grad - array_namespace(g).where(above, inner, 0)) / total, None


class SelectedSoftmax(Function):
    """g_n = exp(h_n) / Σ_m exp(h_m), with m over the assignments of the same token: softmax after the choice.

    For a router whose scores are the logits themselves. Equal to choosing from the full softmax and renormalising
    (Shazeer et al. 2017, equation 3; gpt-oss 2025).
    """

    words = "softmax of chosen"

    def forward(self, h: Float[Array, " N"], token: Int[Array, " N"], *, num_tokens: int) -> Float[Array, " N"]:
        """Shifted by the token's largest logit, so that nothing overflows."""
        self.num_tokens = num_tokens
        e = array_namespace(h).exp(h - max_by_key(h, token, num_tokens)[token])
        g = e / sum_by_key(e, token, num_tokens)[token]
        self.save(g, token)
        return g

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """dh_n = g_n (dg_n - Σ_m dg_m g_m)."""
        g, token = self.saved
        inner = sum_by_key(grad * g, token, self.num_tokens)
        return g * (grad - inner[token]), None


class PNormalize(Function):
    """g_n = s_n / ‖s‖_p, the norm over the assignments of the same token (DBRX 2024; p = 1 there).

    ‖s‖_∞ is the largest |s_m|. Where all scores of a token are 0, its gate weights are equal.
    """

    words = "{p:g}-norm"

    def forward(
        self, s: Float[Array, " N"], token: Int[Array, " N"], *, num_tokens: int, p: float
    ) -> Float[Array, " N"]:
        self.num_tokens, self.p = num_tokens, p
        s = ones_for_zeros(s, token, num_tokens)
        size = array_namespace(s).abs(s)
        if p == 1:
            norm = sum_by_key(size, token, num_tokens)[token]
        else:
            norm = max_by_key(size, token, num_tokens)[token]
            if p < math.inf:  # of s / max, whose powers cannot all underflow
                norm = norm * (sum_by_key((size / norm) ** p, token, num_tokens) ** (1 / p))[token]
        g = s / norm
        self.save(g, norm, token)
        if p == math.inf:
            decisions.record(
                "largest scores", size == norm, lambda n: f"assignment {n}: {float(g[n]):.6g} of the largest"
            )
        return g

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """ds_n = (dg_n - |g_n|^{p-1} Σ_m dg_m g_m) / ‖s‖_p for positive scores; -|g_n|^{p-1} for negative ones.

        For p = ∞ the power is 1/c for each of c equal largest scores, as in the limit, and 0 elsewhere.
        """
        g, norm, token = self.saved
        size = array_namespace(g).abs(g)
        inner = sum_by_key(grad * g, token, self.num_tokens)
        if self.p < math.inf:
            share = (size ** (self.p - 1)).astype(g.dtype, copy=False)
        else:
            largest = (size == 1).astype(g.dtype)
            share = largest / sum_by_key(largest, token, self.num_tokens)[token]
        share = array_namespace(g).where(g < 0, -share, share)
        return (grad - share * inner[token]) / norm, None


class Gate:
    """A step from the scores of the chosen experts towards gate weights: a Function with its settings.

    ``Gate(Renormalize, epsilon=1e-9)``. A router calls its steps in turn. Each maps N scores to N; ``token`` says which
    of them belong to one token. Steps with equal settings are equal.

    Raises:
        ValueError: a negative ``epsilon``, or a ``p`` or ``least`` that is not positive.
    """

    def __init__(self, function: type[Function], **settings: float):
        if settings.get("epsilon", 0) < 0:
            raise ValueError(f"{function.__name__}: epsilon must not be negative, got {settings['epsilon']}")
        for name in ("p", "least"):
            if not settings.get(name, 1) > 0:
                raise ValueError(f"{function.__name__}: {name} must be positive, got {settings[name]}")
        self.function, self.settings = function, settings

    @property
    def words(self) -> str:
        """Its name in tables."""
        words: str = getattr(self.function, "words", self.function.__name__)
        return words.format(**self.settings)

    def __call__(self, s: Tensor, token: Int[Array, " N"], num_tokens: int) -> Tensor:
        result: Tensor = self.function.apply(s, token, num_tokens=num_tokens, **self.settings)
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gate) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.function, *self.settings.items()))

    def __repr__(self) -> str:
        settings = (f"{name}={value}" for name, value in self.settings.items())
        return f"Gate({', '.join([self.function.__name__, *settings])})"


class Scale(Gate):
    """g = factor · s: compensates for the small gate weights of many experts (DeepSeek-V2 16, V3 2.5)."""

    def __init__(self, factor: float):
        super().__init__(Multiply, factor=factor)

    @property
    def words(self) -> str:
        return f"×{self.settings['factor']:g}"

    def __call__(self, s: Tensor, token: Int[Array, " N"], num_tokens: int) -> Tensor:
        result: Tensor = Multiply.apply(s, self.settings["factor"])
        return result

    def __repr__(self) -> str:
        return f"Scale({self.settings['factor']})"
