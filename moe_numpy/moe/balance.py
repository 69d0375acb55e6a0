"""Auxiliary losses that keep the experts evenly loaded and the router's logits small.

Without them a router collapses: an expert that is chosen often learns more and is chosen more often.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from array_api_compat import array_namespace

from ..autodiff import Function, Tensor
from ..ops import Softmax
from ..typing import Array, Float


class SwitchBalanceLoss(Function):
    """L = E Σ_i f_i P_i, where P_i is the mean over tokens of p_ti (Fedus et al. 2021, equations 4 to 6).

    f_i, the fraction of assignments that went to expert i, is a count and therefore a constant: the gradient
    passes through P alone. At perfect balance f = P = 1/E and L = 1. That is not a lower bound:
    f = (.9, .1) and P = (.451, .549) give 0.921.
    """

    def forward(self, p: Float[Array, "T E"], f: Float[Array, " E"]) -> Any:
        """A scalar from the full softmax p (never from the chosen scores alone) and the fractions f."""
        self.save(f)
        self.num_tokens, self.num_experts = p.shape
        mean_p = p.sum(axis=0) / max(self.num_tokens, 1)
        return self.num_experts * (f * mean_p).sum()

    def backward(self, grad: Float[Array, ""]) -> tuple[Any, None]:
        """dL/dp_ti = E f_i / T, the same for every token."""
        (f,) = self.saved
        row = grad * (self.num_experts / max(self.num_tokens, 1)) * f
        return array_namespace(f).broadcast_to(row, (self.num_tokens, self.num_experts)), None


class RouterZLoss(Function):
    """L = (1/T) Σ_t (ln Σ_i exp h_ti)² (Zoph et al. 2022, equation 5): keeps logits near where exp is exact.

    At h = 0 its value is (ln E)², not 0.
    """

    def forward(self, h: Float[Array, "T E"]) -> Any:
        """A scalar from the logits."""
        xp = array_namespace(h)
        top = h.max(axis=1, keepdims=True)
        exp = xp.exp(h - top)
        total = exp.sum(axis=1, keepdims=True)
        lse = top + xp.log(total)
        self.save(exp / total, lse)
        return (lse * lse).sum() / max(h.shape[0], 1)

    def backward(self, grad: Float[Array, ""]) -> Any:
        """dL/dh_ti = 2 lse_t p_ti / T, where p is the softmax of h."""
        p, lse = self.saved
        return grad * (2 / max(p.shape[0], 1)) * lse * p


@dataclass(frozen=True)
class Gating:
    """What the auxiliary losses look at: all of it before anything is dropped."""

    logits: Tensor  # h [T, E]
    load: Any  # Int[E]: the assignments that each expert was asked to take


@runtime_checkable
class Loss(Protocol):
    """An auxiliary loss: its name, the coefficient it enters the training loss with, and its value."""

    name: str
    coefficient: float

    def __call__(self, gating: Gating) -> Tensor:
        """The loss without its coefficient."""


@dataclass(frozen=True)
class SwitchBalance:
    """:class:`SwitchBalanceLoss` with f_i = c_i / Σc, so that its value at balance is 1 for every k."""

    coefficient: float = 0.01
    name: str = "balance"

    def __call__(self, gating: Gating) -> Tensor:
        """E Σ f_i P_i over this batch."""
        xp = array_namespace(gating.load)
        f = xp.asarray(gating.load / max(int(gating.load.sum()), 1), dtype=gating.logits.dtype)
        return SwitchBalanceLoss.apply(Softmax.apply(gating.logits, axis=-1), f)


@dataclass(frozen=True)
class ZLoss:
    """:class:`RouterZLoss`; the coefficient of 0.001 is the paper's."""

    coefficient: float = 0.001
    name: str = "z"

    def __call__(self, gating: Gating) -> Tensor:
        """Mean squared log-partition of the logits."""
        return RouterZLoss.apply(gating.logits)
