"""Gate weights: what the scores of the chosen experts become.

A router scores every expert for every token, h = x W_gᵀ. It turns logits into scores, chooses some experts, and
weighs what they return with gate weights w. The choice is a constant for the derivative. The gate weights are the
only way by which the task loss reaches W_g.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from array_api_compat import array_namespace

from .. import kernels
from ..autodiff import Function, Tensor
from ..typing import Array, Float, Int


class SqrtSoftplus(Function):
    """s = √ln(1 + e^h): a score without an upper bound, flatter than softplus (DeepSeek-V4; Megatron-LM)."""

    def forward(self, h: Float[Array, "T E"]) -> Float[Array, "T E"]:
        """Entry by entry; never below 0."""
        xp = array_namespace(h)
        s = xp.sqrt(xp.logaddexp(h, xp.zeros_like(h)))
        self.save(h, s)
        return s

    def backward(self, grad: Float[Array, "T E"]) -> Any:
        """ds/dh = σ(h) / (2 s), where σ(h) = 1 - exp(-s²)."""
        h, s = self.saved
        xp = array_namespace(h)
        tiny = xp.finfo(s.dtype).tiny  # where e^h underflows, s = 0 and so is ds/dh
        return grad * -xp.expm1(-s * s) / (2 * xp.maximum(s, tiny))


class PickScores(Function):
    """s_n = p[token_n, expert_n]: the scores of the chosen experts."""

    def forward(self, p: Float[Array, "T E"], token: Int[Array, " N"], expert: Int[Array, " N"]) -> Float[Array, " N"]:
        """Read one entry of p for each assignment; no (token, expert) pair occurs twice."""
        at = token * p.shape[1] + expert
        self.save(at)
        self.shape = p.shape
        return kernels.of(p).take_rows(p.reshape(-1), at)

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None, None]:
        """dp[token_n, expert_n] = ds_n; zero, not missing, where an expert was not chosen."""
        (at,) = self.saved
        num_tokens, num_experts = self.shape
        dp = kernels.of(grad).place(grad, at, num_tokens * num_experts)
        return dp.reshape(self.shape), None, None


class Renormalize(Function):
    """w_n = s_n / (S_n + ε), where S_n is the sum of s over the assignments of the same token.

    With one expert per token w is constantly 1 and its derivative 0: the router then learns nothing from the
    task. Mixtral (Jiang et al. 2024), GShard (Lepikhin et al. 2020), DeepSeek-V3 (2024, equation 13).
    """

    def forward(
        self, s: Float[Array, " N"], token: Int[Array, " N"], *, num_tokens: int, epsilon: float = 0.0
    ) -> Float[Array, " N"]:
        """Divide by the token's sum. A token whose sum is 0 needs a positive ε."""
        self.num_tokens = num_tokens
        k = kernels.of(s)
        total = k.take_rows(k.sum_by_key(s, token, num_tokens), token)
        if epsilon:
            total = total + epsilon
        w = s / total
        self.save(w, total, token)
        return w

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """ds_n = (dw_n - Σ_m dw_m w_m) / (S_n + ε), with m over the assignments of the same token."""
        w, total, token = self.saved
        k = kernels.of(grad)
        inner = k.take_rows(k.sum_by_key(grad * w, token, self.num_tokens), token)
        return (grad - inner) / total, None


class SelectedSoftmax(Function):
    """w_n = exp(h_n) / Σ_m exp(h_m), with m over the assignments of the same token: softmax after the choice.

    Equal to choosing from the full softmax and renormalising (Shazeer et al. 2017, equation 3; gpt-oss 2025).
    """

    def forward(self, h: Float[Array, " N"], token: Int[Array, " N"], *, num_tokens: int) -> Float[Array, " N"]:
        """Shifted by the token's largest logit, so that nothing overflows."""
        k = kernels.of(h)
        self.num_tokens = num_tokens
        e = array_namespace(h).exp(h - k.max_by_key(h, token, num_tokens)[token])
        w = e / k.sum_by_key(e, token, num_tokens)[token]
        self.save(w, token)
        return w

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """dh_n = w_n (dw_n - Σ_m dw_m w_m)."""
        w, token = self.saved
        inner = kernels.of(grad).sum_by_key(grad * w, token, self.num_tokens)
        return w * (grad - inner[token]), None


class PNormalize(Function):
    """w_n = s_n / ‖s‖_p, with the norm over the assignments of the same token (DBRX 2024; p = 1 there)."""

    def forward(
        self, s: Float[Array, " N"], token: Int[Array, " N"], *, num_tokens: int, p: float
    ) -> Float[Array, " N"]:
        """Divide positive scores by their p-norm."""
        self.num_tokens, self.p = num_tokens, p
        norm = (kernels.of(s).sum_by_key(s**p, token, num_tokens) ** (1 / p))[token]
        w = s / norm
        self.save(w, norm, token)
        return w

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """ds_n = (dw_n - w_n^{p-1} Σ_m dw_m w_m) / ‖s‖_p."""
        w, norm, token = self.saved
        inner = kernels.of(grad).sum_by_key(grad * w, token, self.num_tokens)
        return (grad - w ** (self.p - 1) * inner[token]) / norm, None


@runtime_checkable
class Weights(Protocol):
    """One step from the scores of the chosen experts towards gate weights; a router applies them in order."""

    def __call__(self, s: Tensor, token: Any, num_tokens: int) -> Tensor:
        """Map [N] to [N]; ``token`` says which entries belong together."""


@dataclass(frozen=True)
class Renormalized:
    """:class:`Renormalize`: a token's weights sum to 1."""

    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"Renormalized: epsilon must not be negative, got {self.epsilon}")

    def __call__(self, s: Tensor, token: Any, num_tokens: int) -> Tensor:
        """Divide by the sum of the token."""
        return Renormalize.apply(s, token, num_tokens=num_tokens, epsilon=self.epsilon)


@dataclass(frozen=True)
class SoftmaxOfSelected:
    """:class:`SelectedSoftmax`, for a router whose scores are the logits themselves."""

    def __call__(self, s: Tensor, token: Any, num_tokens: int) -> Tensor:
        """Softmax over the token's assignments."""
        return SelectedSoftmax.apply(s, token, num_tokens=num_tokens)


@dataclass(frozen=True)
class PNormalized:
    """:class:`PNormalize`."""

    p: float = 1.0

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise ValueError(f"PNormalized: p must be positive, got {self.p}")

    def __call__(self, s: Tensor, token: Any, num_tokens: int) -> Tensor:
        """Divide by the p-norm of the token."""
        return PNormalize.apply(s, token, num_tokens=num_tokens, p=self.p)


@dataclass(frozen=True)
class Scaled:
    """w = factor · s: makes up for small weights of many experts (DeepSeek-V2 16, V3 2.5)."""

    factor: float

    def __call__(self, s: Tensor, token: Any, num_tokens: int) -> Tensor:
        """Multiply by a constant."""
        return s * self.factor
