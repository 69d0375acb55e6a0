"""A table of trainable vectors."""

from typing import Any

import numpy as np
from jaxtyping import Integer

from ..autodiff import Tensor
from ..ops import EmbeddingLookup
from ..typing import Array, Float, Random
from .module import Module, normal
from .sizes import require_sizes


class Embedding(Module):
    """One vector for each id.

    Args:
        num_embeddings: how many ids there are, V.
        d_model: length of the vectors.
        std: standard deviation of the initial entries; 0.02 is GPT-2's.
        rng: draws the entries.
        dtype: type of the parameters.

    Raises:
        ValueError: a length is not an integer of at least 1.
    """

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        std: float = 0.02,
        *,
        rng: Random,
        dtype: Any = np.float32,
    ):
        require_sizes(num_embeddings=num_embeddings, d_model=d_model)
        self.weight = normal(rng, (num_embeddings, d_model), std, dtype)

    def forward(self, ids: Integer[Array, "*batch"]) -> Float[Tensor, "*batch d"]:
        """Look up. TypeError for non-integer ids, ValueError for ids outside 0 ... V-1."""
        return EmbeddingLookup.apply(self.weight, ids)
