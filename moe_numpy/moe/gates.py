"""Gate logits, the noise that helps a router explore, and the gate weights.

A router scores every expert for every token, h = x W_gᵀ. It turns scores into probabilities, chooses some
experts, and weighs what they return with gate weights w. The choice is a constant for the derivative. The gate
weights are the only way by which the task loss reaches W_g.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from array_api_compat import array_namespace

from .. import kernels
from ..autodiff import Function, Tensor
from ..typing import Array, Float, Int


class PickScores(Function):
    """s_n = p[token_n, expert_n]: the scores of the chosen experts."""

    def forward(
        self, p: Float[Array, "T E"], token: Int[Array, " N"], expert: Int[Array, " N"]
    ) -> Float[Array, " N"]:
        """Read one entry of p for each assignment; no (token, expert) pair occurs twice."""
        self.save(token, expert)
        self.shape = p.shape
        return p[token, expert]

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None, None]:
        """dp[token_n, expert_n] = ds_n; zero, not missing, where an expert was not chosen."""
        token, expert = self.saved
        dp = array_namespace(grad).zeros(self.shape, dtype=grad.dtype)
        dp[token, expert] = grad
        return dp, None, None


class Renormalize(Function):
    """w_n = s_n / S_n, where S_n is the sum of s over the assignments of the same token.

    With one expert per token w is constantly 1 and its derivative 0: the router then learns nothing from the
    task. Shazeer et al. 2017 (softmax of the top k) and Mixtral (Jiang et al. 2024) normalise in this way.
    """

    def forward(
        self, s: Float[Array, " N"], token: Int[Array, " N"], *, num_tokens: int
    ) -> Float[Array, " N"]:
        """Divide by the token's sum. Scores must be positive."""
        self.num_tokens = num_tokens
        total = kernels.of(s).sum_by_key(s, token, num_tokens)[token]
        w = s / total
        self.save(w, total, token)
        return w

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """ds_n = (dw_n - Σ_m dw_m w_m) / S_n, with m over the assignments of the same token."""
        w, total, token = self.saved
        inner = kernels.of(grad).sum_by_key(grad * w, token, self.num_tokens)
        return (grad - inner[token]) / total, None


@runtime_checkable
class Weights(Protocol):
    """How the scores of the chosen experts become gate weights."""

    def __call__(self, scores: Tensor, token: Any, num_tokens: int) -> Tensor:
        """Gate weights [N] from the chosen scores [N]."""


@dataclass(frozen=True)
class Raw:
    """w = s: the score itself (Switch, OLMoE). A token's weights sum to less than 1."""

    def __call__(self, scores: Tensor, token: Any, num_tokens: int) -> Tensor:
        """Return the scores unchanged."""
        return scores


@dataclass(frozen=True)
class Renormalized:
    """w = s / (sum of the token's chosen s) (Mixtral). Equal to a softmax over the chosen logits."""

    def __call__(self, scores: Tensor, token: Any, num_tokens: int) -> Tensor:
        """Divide each score by the sum of its token."""
        return Renormalize.apply(scores, token, num_tokens=num_tokens)


class Noise:
    """Randomness during training only. It reaches the router, never what the experts see."""

    def on_input(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """The router's own view of the tokens [T, d]."""
        return x

    def on_logits(self, logits: Tensor, rng: np.random.Generator) -> Tensor:
        """The logits [T, E] that will be scored."""
        return logits


@dataclass(frozen=True)
class Jitter(Noise):
    """The router's input times U(1-ε, 1+ε), entry by entry (Fedus et al. 2021, section 2.4)."""

    epsilon: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"Jitter: epsilon must be in [0, 1), got {self.epsilon}")

    def on_input(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """x · u with a fresh u for every entry."""
        u = rng.uniform(1 - self.epsilon, 1 + self.epsilon, x.shape)
        return x * array_namespace(x.data).asarray(u, dtype=x.dtype)


@dataclass(frozen=True)
class NormalNoise(Noise):
    """Logits plus σ N(0, 1), with σ = 1/E unless given (Riquelme et al. 2021, section 2.1)."""

    std: float | None = None

    def __post_init__(self) -> None:
        if self.std is not None and self.std < 0:
            raise ValueError(f"NormalNoise: std must not be negative, got {self.std}")

    def on_logits(self, logits: Tensor, rng: np.random.Generator) -> Tensor:
        """h + σ n with a fresh n for every entry."""
        std = 1 / logits.shape[1] if self.std is None else self.std
        n = std * rng.standard_normal(logits.shape)
        return logits + array_namespace(logits.data).asarray(n, dtype=logits.dtype)
