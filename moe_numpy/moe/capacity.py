"""Who is dropped when an expert is full.

An expert with a fixed number of places, its capacity C, cannot take more than C assignments of a batch. What
does not fit is dropped: that token gets nothing from that expert, and the residual connection around the layer
carries it on.
"""

import math
from dataclasses import dataclass
from typing import Any

from .. import kernels
from ..autodiff import Function, decisions
from ..typing import Array, Float, Int
from .selection import Candidates


class KeepAssignments(Function):
    """w'_n = w[kept_n]: the weights of the assignments that stay, in the order in which experts take them."""

    def forward(self, w: Float[Array, " M"], kept: Int[Array, " N"]) -> Float[Array, " N"]:
        """Select; ``kept`` names no assignment twice."""
        self.save(kept)
        self.num_candidates = w.shape[0]
        return w[kept]

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """dw[kept_n] = dw'_n, and 0 for a dropped assignment: it changed nothing."""
        (kept,) = self.saved
        return kernels.of(grad).place(grad, kept, self.num_candidates), None


@dataclass(frozen=True)
class Capacity:
    """Each expert takes at most C = ⌈factor · k · T / E⌉ assignments of the batch (Lepikhin et al. 2020, Fedus et al. 2021).

    All first choices come before all second choices, earlier tokens before later ones: the order of GShard.
    With a factor of 1 there is just room for perfectly balanced assignments.
    """

    factor: float = 1.25

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"capacity factor must be positive, got {self.factor}")

    def size(self, num_tokens: int, num_experts: int, top_k: int) -> int:
        """C for a batch of this many tokens."""
        # A product such as 1.1 * 10 is 11.000000000000002 in binary; the guard keeps its ceiling at 11.
        return math.ceil(self.factor * top_k * num_tokens / num_experts - 1e-9)

    def fits(self, candidates: Candidates, size: int, num_experts: int) -> Any:
        """Bool[M]: whether each candidate finds a place among the ``size`` of its expert."""
        k = kernels.of(candidates.expert)
        by_choice = k.stable_order(candidates.choice, int(candidates.choice.max(initial=0)) + 1)
        place = k.position_in_group(candidates.expert[by_choice], num_experts)
        fits = k.place(place, by_choice, len(by_choice)) < size
        decisions.record("dropped tokens", fits, lambda m: f"assignment {m} found or lost its place")
        return fits
