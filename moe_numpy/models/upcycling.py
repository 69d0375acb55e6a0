"""A dense transformer that was made here as a sparse one that computes the same function at first."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..moe.recipes import find
from ..moe.upcycling import Upcycling
from ..nn import FeedForward
from ..nn.module import Unfilled
from ..typing import Random
from .config import ModelConfig
from .transformer import Transformer

RECIPES: Mapping[str, str] = {"renormalised": "mixtral", "raw": "olmoe"}
"""The recipes with gate weights that are divided by their sum, and that are not, and with nothing else."""


def upcycled_config(
    config: ModelConfig, weights: str, copies: int, top_k: int | None = None, granularity: int = 1
) -> ModelConfig:
    """The settings of the sparse model: E G experts of width f / G, of which a token takes k G.

    Args:
        config: of a dense model.
        weights: ``"renormalised"``, ``"raw"``, or the name of a recipe, which keeps its own settings but for the number
            of experts per token, and has no capacity where it can do without.
        copies: E.
        top_k: k; None is 2 where the recipe has that setting.
        granularity: G.

    Raises:
        ValueError: the model is not dense, G does not divide f, or a setting is not possible.
    """
    if config.num_experts:
        raise ValueError(
            f"the model has {config.num_experts} experts in {sum(map(config.is_sparse, range(config.num_layers)))} of "
            f"{config.num_layers} layers already: only dense models are upcycled"
        )
    if copies < 1 or granularity < 1 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"num_experts, top_k and granularity must be at least 1, got {copies}, {top_k} and {granularity}"
        )
    if config.d_ff % granularity:
        raise ValueError(f"granularity must divide d_ff={config.d_ff}, got {granularity}")
    recipe = find(RECIPES.get(weights, weights))
    settings: dict[str, Any] = {}
    if "top_k" in recipe.settings or top_k is not None:
        settings["top_k"] = (top_k or 2) * granularity
    if "eval_capacity_factor" in recipe.settings:  # where experts choose, there is only one factor, and no way without
        settings["capacity_factor"] = None
    return replace(
        config,
        num_experts=copies * granularity,
        d_ff=config.d_ff // granularity,
        recipe=recipe.name,
        recipe_settings=settings,
        moe_every=1,
        dense_d_ff=None,
    )


def upcycled(
    model: Transformer, config: ModelConfig, how: Upcycling, *, rng: Random, reinitialise: float = 0.0
) -> Transformer:
    """The sparse model; what is not a feed-forward layer is copied.

    Args:
        model: dense.
        config: of the sparse model, see :func:`upcycled_config`.
        how: a plan for the recipe of this configuration, see :func:`moe_numpy.moe.upcycling.plan`.
        rng: draws the routers, layer by layer.
        reinitialise: the share of each expert's units to draw anew; above 0, the function changes.
    """
    arrays = {name: array for name, array in model.state_dict().items() if ".feed_forward." not in name}
    for i, block in enumerate(model.layers):
        dense = block.feed_forward
        assert isinstance(dense, FeedForward)
        gate, up, down = (part.weight.data for part in (dense.gate, dense.up, dense.down))
        of_layer = how.layer(gate, up, down, rng, reinitialise)
        arrays |= {f"layers.{i}.feed_forward.{name}": array for name, array in of_layer.items()}
    sparse = Transformer(config, rng=Unfilled(), dtype=model.embedding.weight.dtype)
    for name, tensor in [*sparse.named_parameters(), *sparse.named_buffers()]:
        tensor.data = arrays.pop(name).copy()
    assert not arrays, f"left over: {', '.join(arrays)}"
    return sparse
