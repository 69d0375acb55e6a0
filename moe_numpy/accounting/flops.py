"""Floating-point operations for one token, forward and backward."""

from dataclasses import dataclass

from .architecture import Architecture
from .parameters import active_parameters


@dataclass(frozen=True)
class Flops:
    """FLOPs of one token's forward pass: a multiply-add is two.

    Attributes:
        weights: of the products with weight matrices.
        scores: of queries with keys and of probabilities with values.
    """

    weights: int
    scores: int

    @property
    def forward(self) -> int:
        """Both."""
        return self.weights + self.scores

    @property
    def backward(self) -> int:
        """2 · forward: each product has two factors, and each gets its gradient by a product as large."""
        return 2 * self.forward


def flops_per_token(architecture: Architecture, context: int) -> Flops:
    """FLOPs of the last of ``context`` tokens; with an encoder, of the last source and the last target token.

    weights = 2 · (active matrix entries); scores = 2 · (multiply-adds for a key) · (keys in all layers).
    The tokens of a causal sequence of length S attend to (S + 1) / 2 tokens on average.
    Softmax, norms, activations and the lookup of the embedding are not counted. Source: Kaplan et al. 2020,
    section 2.1, which leaves out the output matrix and half of the scores.

    Raises:
        ValueError: context is below 1.
    """
    keys = architecture.keys_attended(context) + architecture.num_encoder_layers * context
    return Flops(
        weights=2 * active_parameters(architecture).multiplied,
        scores=2 * architecture.attention.score_multiply_adds * keys,
    )
