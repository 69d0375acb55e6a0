"""The layer that a recipe describes."""

from typing import Any

import numpy as np

from ..typing import Random
from .layer import MoE, Recipe
from .soft import SoftMoE
from .tree import HierarchicalMoE


def make_layer(
    recipe: Recipe,
    d_model: int,
    d_ff: int,
    num_experts: int,
    *,
    dispatch: str = "sorted",
    rng: Random,
    dtype: Any = np.float32,
) -> MoE | HierarchicalMoE | SoftMoE:
    """The layer that a recipe describes. TypeError for anything but a Recipe."""
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, such as recipes.mixtral(), got {recipe!r:.60}")
    if recipe.slots:
        return SoftMoE(d_model, d_ff, num_experts, recipe.slots, experts=recipe.experts, rng=rng, dtype=dtype)
    if recipe.groups:
        return HierarchicalMoE(d_model, d_ff, num_experts, recipe, dispatch=dispatch, rng=rng, dtype=dtype)
    return MoE(d_model, d_ff, num_experts, recipe, dispatch=dispatch, rng=rng, dtype=dtype)
