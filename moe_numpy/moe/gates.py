"""Gate weights: what the scores of the chosen experts become.

A router scores every expert for every token, h = x W_gᵀ. It turns logits into scores, chooses some experts, and
multiplies what they return by gate weights g. The choice is a constant for the derivative. The gate weights are the
only way by which the task loss reaches W_g.
"""

from typing import Any

from array_api_compat import array_namespace

from ..autodiff import Function, Tensor
from ..kernels import max_by_key, scatter, sum_by_key, take_rows
from ..ops import Multiply
from ..typing import Array, Float, Int


class SqrtSoftplus(Function):
    """s = √ln(1 + e^h): a score without an upper bound, flatter than softplus (DeepSeek-V4; Megatron-LM)."""

    def forward(self, h: Float[Array, "T E"]) -> Float[Array, "T E"]:
        """Entry by entry; never below 0."""
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
        tiny = xp.finfo(s.dtype).tiny  # where e^h underflows, s = 0 and so is ds/dh
        return (grad * -xp.expm1(-s * s) / (2 * xp.maximum(s, tiny))).astype(self.dtype, copy=False)


class PickScores(Function):
    """s_n = p[token_n, expert_n]: the scores of the chosen experts."""

    def forward(self, p: Float[Array, "T E"], token: Int[Array, " N"], expert: Int[Array, " N"]) -> Float[Array, " N"]:
        """Read one entry of p for each assignment; no (token, expert) pair occurs twice."""
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


class Renormalize(Function):
    """g_n = s_n / (Σ_m s_m + ε), with m over the assignments of the same token.

    With one expert per token g is constantly 1 and its derivative 0: the router then learns nothing from the
    task. Mixtral (Jiang et al. 2024), GShard (Lepikhin et al. 2020), DeepSeek-V3 (2024, equation 13).
    """

    words = "normalised"

    def forward(
        self, s: Float[Array, " N"], token: Int[Array, " N"], *, num_tokens: int, epsilon: float = 0.0
    ) -> Float[Array, " N"]:
        """Divide by the token's sum. A token whose sum is 0 needs a positive ε."""
        self.num_tokens = num_tokens
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
    """g_n = s_n / ‖s‖_p, with the norm over the assignments of the same token (DBRX 2024; p = 1 there)."""

    words = "{p:g}-norm"

    def forward(
        self, s: Float[Array, " N"], token: Int[Array, " N"], *, num_tokens: int, p: float
    ) -> Float[Array, " N"]:
        """Divide positive scores by their p-norm."""
        self.num_tokens, self.p = num_tokens, p
        norm = (sum_by_key(s**p, token, num_tokens) ** (1 / p))[token]
        g = s / norm
        self.save(g, norm, token)
        return g

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """ds_n = (dg_n - g_n^{p-1} Σ_m dg_m g_m) / ‖s‖_p."""
        g, norm, token = self.saved
        inner = sum_by_key(grad * g, token, self.num_tokens)
        return (grad - g ** (self.p - 1) * inner[token]) / norm, None


class Gate:
    """A step from the scores of the chosen experts towards gate weights: a Function with its settings.

    ``Gate(Renormalize, epsilon=1e-9)``. A router calls its steps in turn. Each maps N scores to N; ``token`` says which
    of them belong to one token. Steps with equal settings are equal.

    Raises:
        ValueError: a negative ``epsilon``, or a ``p`` that is not positive.
    """

    def __init__(self, function: type[Function], **settings: float):
        if settings.get("epsilon", 0) < 0:
            raise ValueError(f"{function.__name__}: epsilon must not be negative, got {settings['epsilon']}")
        if not settings.get("p", 1) > 0:
            raise ValueError(f"{function.__name__}: p must be positive, got {settings['p']}")
        self.function, self.settings = function, settings

    @property
    def words(self) -> str:
        """What tables call it."""
        words: str = getattr(self.function, "words", self.function.__name__)
        return words.format(**self.settings)

    def __call__(self, s: Tensor, token: Int[Array, " N"], num_tokens: int) -> Tensor:
        """Run the Function."""
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
        """The factor."""
        return f"×{self.settings['factor']:g}"

    def __call__(self, s: Tensor, token: Int[Array, " N"], num_tokens: int) -> Tensor:
        """Multiply by a constant."""
        result: Tensor = Multiply.apply(s, self.settings["factor"])
        return result

    def __repr__(self) -> str:
        return f"Scale({self.settings['factor']})"
