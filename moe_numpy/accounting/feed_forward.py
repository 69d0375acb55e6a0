"""The shape of a feed-forward network: a dense layer, one expert, or the shared experts of a layer."""

from dataclasses import dataclass

from .entries import Entries
from .ranges import require_at_least


@dataclass(frozen=True)
class FeedForward:
    """d → f → d.

    Attributes:
        d_ff: hidden width f.
        gated: three matrices, D (act(G x) ⊙ U x) (Shazeer 2020, section 2), or two, W₂ act(W₁ x).
        bias: each matrix has one.
    """

    d_ff: int
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, self, "d_ff")

    def entries(self, d_model: int) -> Entries:
        """(2 + gated) d f, and biases of f for each matrix into the hidden layer and d for the last."""
        inward = 2 if self.gated else 1
        return Entries(
            multiplied=(inward + 1) * d_model * self.d_ff,
            other=inward * self.d_ff + d_model if self.bias else 0,
        )
