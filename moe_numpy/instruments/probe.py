"""A small random layer of a recipe, with tokens for it: what the instruments examine."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..moe import Recipe, RouterConfig, make_layer
from ..moe.selection import Hash
from ..typing import Array, Float, Int

D_MODEL, D_FF = 6, 5
_VOCABULARY = 256


@dataclass(frozen=True)
class Probe:
    """One random layer in float64 and a batch of tokens; the same seed gives the same layer and tokens.

    Attributes:
        recipe: the layer's recipe.
        seed: draws weights, tokens and the noise of every run.
        training: whether noise and balancing are on.
        crowded: tokens resemble each other, so that they choose the same experts and capacities are exceeded.
        num_experts: E.
        num_sequences: B.
        sequence_length: S.
    """

    recipe: Recipe
    seed: int = 0
    training: bool = True
    crowded: bool = False
    num_experts: int = 16
    num_sequences: int = 2
    sequence_length: int = 8
    x: Float[Array, "B S d"] = field(init=False)
    token_ids: Int[Array, "B S"] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 1])
        shape = (self.num_sequences, self.sequence_length)
        object.__setattr__(self, "x", self.tokens(rng, *shape))
        object.__setattr__(self, "token_ids", self.ids(rng, *shape))

    def tokens(self, rng: np.random.Generator, *shape: int) -> Float[Array, "*shape d"]:
        """Vectors from this probe's distribution of tokens."""
        independent = rng.standard_normal((*shape, D_MODEL))
        if not self.crowded:
            return independent
        common = np.random.default_rng([self.seed, 2]).standard_normal(D_MODEL)
        return 2 * common + independent

    def ids(self, rng: np.random.Generator, *shape: int) -> Int[Array, "*shape"]:
        """Token ids in the range of the recipe."""
        selection = None if self.recipe.router is None else self.recipe.router.selection
        known = selection.vocab_size if isinstance(selection, Hash) else _VOCABULARY
        return rng.integers(0, known, shape)

    def layer(self) -> Any:
        """The layer of ``make_layer``, with the same weights every time; parameters that start at 0 are random too."""
        rng = np.random.default_rng([self.seed, 3])
        layer = make_layer(self.recipe, D_MODEL, D_FF, self.num_experts, rng=rng, dtype=np.float64)
        for parameter in layer.parameters():
            parameter.data += 0.1 * rng.standard_normal(parameter.shape)
        layer.train(self.training)
        return layer

    def run(self, layer: Any, x: Any = None, token_ids: Any = None) -> tuple[Tensor, Any]:
        """Output and routing of the layer, with the same noise in every run."""
        x = self.x if x is None else x
        return layer(
            Tensor(x), np.random.default_rng([self.seed, 4]), self.token_ids if token_ids is None else token_ids
        )


def as_recipe(recipe: Recipe | RouterConfig) -> Recipe:
    """A bare router becomes a recipe with the usual experts."""
    return recipe if isinstance(recipe, Recipe) else Recipe(recipe)
