"""Balancing without a loss: a state vector that shifts the choice, updated once after each optimizer step.

The state carries no gradient. It moves only the choice; gate weights come from the scores without it.
"""

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..typing import Array, Float
from .routing import RoutingTrace


class Balancer:
    """The base class. A router keeps the state, which starts as ``initial(E)``, and calls the methods below."""

    @property
    def target(self) -> float | None:
        """The experts per token that it steers towards; None if it does not change their number."""
        return None

    @property
    def words(self) -> str:
        """Its name in tables."""
        return type(self).__name__

    def initial(self, num_experts: int) -> Float[Array, " n"]:
        """The state before the first step."""
        return np.zeros(num_experts)

    def shift(self, scores: Float[Array, "T E"], state: Float[Array, " n"]) -> Float[Array, "T E"]:
        """The scores that experts are chosen by."""
        return scores

    def loss(self, trace: RoutingTrace, state: Float[Array, " n"]) -> Tensor | None:
        """A loss whose coefficient is the state; None if there is none."""
        return None

    def observe(
        self, trace: RoutingTrace, chosen_by: Float[Array, "T E"], state: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """What one forward pass contributes to the next update: a vector that is summed over the passes."""
        return trace.load.astype(state.dtype)

    def update(self, state: Float[Array, " n"], observed: Float[Array, " n"], passes: int) -> Float[Array, " n"]:
        """The state after an optimizer step."""
        return state


@dataclass(frozen=True)
class LossFreeBias(Balancer):
    """b_i += γ · sign(mean(c) - c_i): experts with too few tokens become easier to choose.

    Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing"; DeepSeek-V3 (2024), equation 16.
    """

    rate: float = 0.001
    words = "bias"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"bias rate must not be negative, got {self.rate}")

    def shift(self, scores: Float[Array, "T E"], state: Float[Array, " n"]) -> Float[Array, "T E"]:
        """Return s + b."""
        return scores + state.astype(scores.dtype)

    def update(self, state: Float[Array, " n"], observed: Float[Array, " n"], passes: int) -> Float[Array, " n"]:
        """b_i + γ · sign(mean(c) - c_i), with b = ``state``, c = ``observed``, γ = ``self.rate``; in a new array.

        c is summed over ``passes`` forward passes, which changes no sign: an optimizer step is one step of size γ.
        """
        return state + self.rate * _sign(observed.mean() - observed)


@dataclass(frozen=True)
class QuantileBalancing(Balancer):
    """Choose by s - β, where β_i is the score at which expert i would get exactly its fair share, kT/E tokens.

    For each token α_t is the (k+1)-th best of s - β: what an expert has to beat. β'_i is the (kT/E + 1)-th largest
    of s_ti - α_t over tokens. β moves a part 1 - ema of the way to β' and is centred. It is one step of coordinate
    descent on the dual of balanced assignment (Su 2026, MoE Odyssey 6; Megatron-LM, ``qb_dual_update``).
    """

    k: int
    ema: float = 0.9
    words = "quantile"

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")

    def initial(self, num_experts: int) -> Float[Array, " n"]:
        """β = 0. ValueError if k does not fit the number of experts."""
        if not 1 <= self.k <= num_experts:
            raise ValueError(f"k must be between 1 and num_experts={num_experts}, got {self.k}")
        return super().initial(num_experts)

    def shift(self, scores: Float[Array, "T E"], state: Float[Array, " n"]) -> Float[Array, "T E"]:
        """Return s - β."""
        return scores - state.astype(scores.dtype)

    def observe(
        self, trace: RoutingTrace, chosen_by: Float[Array, "T E"], state: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """β' of this batch. A fractional share is rounded down."""
        xp = array_namespace(chosen_by)
        num_tokens, num_experts = chosen_by.shape
        if self.k == num_experts or num_tokens == 0:
            return xp.zeros_like(state)
        share = min(num_tokens * self.k // num_experts, num_tokens - 1)
        alpha = xp.sort(chosen_by, axis=1)[:, -self.k - 1]
        return xp.sort(chosen_by + state.astype(chosen_by.dtype) - alpha[:, None], axis=0)[-share - 1]

    def update(self, state: Float[Array, " n"], observed: Float[Array, " n"], passes: int) -> Float[Array, " n"]:
        """ema β + (1 - ema) mean of β' over the passes, centred."""
        beta = self.ema * state + (1 - self.ema) * observed / passes
        return beta - beta.mean()


@dataclass(frozen=True)
class AdaptiveL1(Balancer):
    """λ · (1/T) Σ_t Σ_i f_i g_ti, where λ grows or shrinks until k experts are active (ReMoE, Wang et al. 2024).

    f_i = c_i E / (kT) makes busy experts pay more (section 3.5). After each step λ is multiplied by ``factor``
    if more than k experts were active, divided by it if fewer (equation 8).
    """

    k: float = 2.0
    initial_coefficient: float = 1e-8
    factor: float = 1.2
    words = "adaptive L1"

    def __post_init__(self) -> None:
        if not self.factor > 1:
            raise ValueError(f"factor must be above 1, got {self.factor}")
        if not self.k > 0:
            raise ValueError(f"k must be positive, got {self.k}")
        if not self.initial_coefficient > 0:
            raise ValueError(f"initial_coefficient must be positive, or it never grows; got {self.initial_coefficient}")

    @property
    def target(self) -> float:
        """The number of active experts, k."""
        return self.k

    def initial(self, num_experts: int) -> Float[Array, " n"]:
        """The initial λ."""
        return np.array([self.initial_coefficient])

    def loss(self, trace: RoutingTrace, state: Float[Array, " n"]) -> Tensor | None:
        """λ times the load-weighted mean gate weight; f is constant."""
        num_tokens, num_experts = trace.logits.shape
        xp = array_namespace(trace.gate.data)
        f = trace.load * (num_experts / (self.k * max(num_tokens, 1)))
        paid = trace.gate * xp.asarray(f, dtype=trace.gate.dtype)[trace.candidates.expert]
        return paid.sum() * xp.asarray(state[0] / max(num_tokens, 1), dtype=paid.dtype)

    def observe(
        self, trace: RoutingTrace, chosen_by: Float[Array, "T E"], state: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """Active experts per token."""
        return (trace.load.sum() / max(trace.logits.shape[0], 1)).reshape(1)

    def update(self, state: Float[Array, " n"], observed: Float[Array, " n"], passes: int) -> Float[Array, " n"]:
        """λ · factor if too many experts are active, λ / factor if too few; at least 1e-30, to find its way back."""
        xp = array_namespace(state)
        return xp.maximum(state * self.factor ** _sign(observed / passes - self.k), 1e-30)


def _sign(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """-1, 0 or 1. The ``sign`` of array-api-compat would wait for a GPU, to correct CuPy's result for NaN."""
    return (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype)
