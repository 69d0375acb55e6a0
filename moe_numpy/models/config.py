"""The configuration of a transformer: plain values only, so that it can be stored as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..moe.layer import EXPERTS
from ..moe.recipes import RECIPES


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
        d_ff: hidden width of one expert, or of the only network of a dense layer.
        num_experts: E; 0 makes every layer dense.
        top_k: experts per token.
        recipe: the router, a name from :data:`moe_numpy.moe.recipes.RECIPES`.
        capacity_factor: places per expert relative to perfect balance; None for no limit.
        experts: kind of expert, see :class:`moe_numpy.moe.MoE`.
        moe_every: every n-th layer is sparse, counted from the last; the others are dense.
        dense_d_ff: hidden width of the dense layers of a sparse model; top_k · d_ff unless given.

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
    top_k: int = 2
    recipe: str = "mixtral"
    capacity_factor: float | None = None
    experts: str = "swiglu"
    moe_every: int = 1
    dense_d_ff: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "d_model",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "context",
            "d_ff",
            "moe_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dense_d_ff is not None and self.dense_d_ff < 1:
            raise ValueError(f"dense_d_ff must be at least 1, got {self.dense_d_ff}")
        if self.num_experts < 0:
            raise ValueError(f"num_experts must not be negative, got {self.num_experts}")
        if self.d_model % self.num_heads or (self.d_model // self.num_heads) % 2:
            raise ValueError(
                f"d_model={self.d_model} must be num_heads={self.num_heads} times an even width per head"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}")
        if self.num_experts and not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k must be between 1 and num_experts={self.num_experts}, got {self.top_k}")
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        if self.experts not in EXPERTS:
            raise ValueError(f"experts must be one of {', '.join(EXPERTS)}, got {self.experts!r}")
        if self.capacity_factor is not None and not self.capacity_factor > 0:
            raise ValueError(f"capacity_factor must be positive, got {self.capacity_factor}")

    def is_sparse(self, layer: int) -> bool:
        """Whether this layer has experts."""
        return self.num_experts > 0 and (self.num_layers - 1 - layer) % self.moe_every == 0

    def dense_twin(self) -> "ModelConfig":
        """The dense model whose feed-forward layers are as wide as the experts that one token meets together.

        Per token it multiplies by as many weights as this model does, except for the router's d_model · E in
        each sparse layer.
        """
        return replace(self, num_experts=0, d_ff=self.top_k * self.d_ff)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """Read :meth:`to_json` back. ValueError for a name that does not belong."""
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown settings in a model configuration: {', '.join(unknown)}")
        return cls(**values)
