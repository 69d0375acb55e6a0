"""The configuration of a transformer: plain values only, so that it can be stored as JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeVar, get_type_hints

import msgspec
import numpy as np

from ..moe import Recipe, make_layer
from ..moe.pools import pools_of
from ..moe.recipes import RECIPES, find
from ..nn.sizes import require_countable, require_sizes
from .transformer_config import Dense, Heads, Layer, Sparse, TransformerConfig

T = TypeVar("T")
_ADDED = {"image_size": 0, "patch_size": 2}  # settings of later versions: not written where they have their default


def read_settings(cls: type[T], values: Mapping[str, Any], what: str) -> T:
    """A dataclass of settings from plain values, each of the declared type.

    Raises:
        ValueError: an unknown name, a value of another type, or what the class refuses.
    """
    unknown = sorted(values.keys() - {field.name for field in fields(cls)})  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"unknown settings in a {what} configuration: {', '.join(unknown)}")
    try:
        return msgspec.convert(values, cls)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ValueError):  # what the class itself refused
            raise error.__cause__ from None
        raise


def _require_type(name: str, value: Any, type: Any) -> None:
    try:
        msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(f"{error} - at `$.recipe_settings.{name}`") from error


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer with Mixture-of-Experts layers.

    Attributes:
        vocab_size: V; 256 for bytes.
        d_model: width of the residual stream.
        num_layers: attention and feed-forward pairs.
        num_heads: query heads.
        num_kv_heads: key and value heads; divides num_heads.
        context: the longest sequence, in tokens.
        d_ff: hidden width of one expert, or of the feed-forward network if there are no experts.
        num_experts: E; 0 for a dense model.
        recipe: the router and what surrounds it, what :func:`moe_numpy.moe.recipes.find` finds.
        recipe_settings: settings of the recipe; the rest are those for small models, or as published.
        moe_every: every n-th layer is sparse, counted from the last; the others are dense.
        dense_d_ff: hidden width of the dense layers of a sparse model; by default :attr:`active_width`.
        image_size: pixels per side of the images that may stand between tokens; 0 for none.
        patch_size: pixels per side of their patches.

    Raises:
        ValueError: a value out of range, by name.
    """

    vocab_size: int = 256
    d_model: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    context: int = 128
    d_ff: int = 256
    num_experts: int = 8
    recipe: str = "mixtral"
    recipe_settings: Mapping[str, Any] = field(default_factory=dict)
    moe_every: int = 1
    dense_d_ff: int | None = None
    image_size: int = 0
    patch_size: int = 2

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "num_kv_heads", "context", "d_ff", "moe_every")
        require_sizes(**{name: getattr(self, name) for name in sizes})
        if self.dense_d_ff is not None:
            require_sizes(dense_d_ff=self.dense_d_ff)
        if self.num_experts < 0:
            raise ValueError(f"num_experts must not be negative, got {self.num_experts}")
        require_countable(num_layers=self.num_layers, num_experts=self.num_experts)
        if self.d_model % self.num_heads or (self.d_model // self.num_heads) % 2:
            raise ValueError(f"d_model={self.d_model} must be num_heads={self.num_heads} times an even width per head")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}")
        if self.image_size:
            require_sizes(image_size=self.image_size, patch_size=self.patch_size)
            if self.image_size % self.patch_size:
                raise ValueError(f"patch_size={self.patch_size} must divide image_size={self.image_size}")
        recipe = self.layer_recipe  # raises for unknown names and settings
        if self.num_experts and recipe.router is not None:
            recipe.router.selection.validate(self.num_routes)
            for pool in pools_of(recipe.pools, self.num_experts):
                recipe.router.selection.validate(len(pool))
        if self.image_size and self.num_experts and recipe.router is None:
            raise ValueError(f"image_size={self.image_size}: the layers of {self.recipe} do not take images")

    @cached_property
    def layer_recipe(self) -> Recipe:
        """The recipe of a sparse layer."""
        published = find(self.recipe)
        return published(**{**published.small, **self.recipe_settings})

    @cached_property
    def experts_per_token(self) -> float:
        """Experts per token on average, before dropping; all of them in Soft MoE, 0 in a dense model."""
        recipe = self.layer_recipe
        if recipe.router is None or self.num_experts == 0:
            return float(self.num_experts)
        of_levels = *recipe.groups, self.num_experts // math.prod(recipe.groups) + recipe.zero_experts
        return math.prod(map(recipe.router.per_token, of_levels))

    @property
    def num_routes(self) -> int:
        """The options of a router: experts, zero-computation ones included, or groups; 0 in Soft MoE."""
        recipe = self.layer_recipe
        if recipe.router is None or self.num_experts == 0:
            return 0
        return (recipe.groups or (self.num_experts + recipe.zero_experts,))[0]

    @property
    def routed_layers(self) -> list[int]:
        """The indices of the layers with a router."""
        return [i for i in range(self.num_layers) if self.is_sparse(i) and self.num_routes]

    def is_sparse(self, layer: int) -> bool:
        """Whether this layer has experts."""
        return self.num_experts > 0 and (self.num_layers - 1 - layer) % self.moe_every == 0

    @cached_property
    def active_width(self) -> int:
        """The d_ff of a dense SwiGLU layer with the active weights of a sparse one, router excluded."""
        layer = make_layer(self.layer_recipe, self.d_model, self.d_ff, self.num_experts, rng=np.random.default_rng(0))
        routers = [] if layer.router is None else [layer.router, *getattr(layer, "other_routers", [])]
        router = sum(each.num_parameters() for each in routers)
        return max(1, round((layer.active_parameters() - router) / (3 * self.d_model)))

    @property
    def transformer(self) -> TransformerConfig:
        """The same model, layer by layer."""
        attention = Heads(self.num_heads, self.num_kv_heads, self.d_model // self.num_heads)
        dense = self.d_ff if self.num_experts == 0 else self.dense_d_ff
        layers = tuple(
            Layer(
                attention,
                Sparse(self.layer_recipe, self.d_ff, self.num_experts)
                if self.is_sparse(i)
                else Dense(dense or self.active_width),
            )
            for i in range(self.num_layers)
        )
        images = (self.image_size, self.patch_size) if self.image_size else None
        return TransformerConfig(self.vocab_size, self.d_model, self.context, layers, images=images)

    def dense_twin(self) -> "ModelConfig":
        """The dense model with the same number of active parameters, routers excluded."""
        return replace(self, num_experts=0, d_ff=self.active_width)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values."""
        values = asdict(self) | {"recipe_settings": dict(self.recipe_settings)}
        return {name: value for name, value in values.items() if name not in _ADDED or value != _ADDED[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """Read :meth:`to_json` back. ValueError for an unknown name or a value of another type."""
        config = read_settings(cls, values, "model")
        published = RECIPES.get(config.recipe)  # the annotations of one's own may be anything
        types = get_type_hints(published.build) if published else {}
        for name, value in config.recipe_settings.items():
            if name in types:
                _require_type(name, value, types[name])
        return config
