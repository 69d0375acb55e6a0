"""A transformer, part by part: what :class:`ModelConfig` and every published model come down to."""

from dataclasses import dataclass, field
from typing import Any

from ..moe import Recipe
from ..nn import AttentionParts, LatentParts, LayerNorm, RMSNorm
from ..nn.sizes import require_sizes


@dataclass(frozen=True)
class Heads:
    """Attention with heads of queries and of keys and values; see :class:`moe_numpy.nn.Attention`."""

    num_heads: int
    num_kv_heads: int
    d_head: int
    parts: AttentionParts = field(default_factory=AttentionParts)


@dataclass(frozen=True)
class LatentHeads:
    """Attention whose keys and values come from a latent; see :class:`moe_numpy.nn.LatentAttention`."""

    num_heads: int
    parts: LatentParts


@dataclass(frozen=True)
class Dense:
    """One SwiGLU network for all tokens, with or without biases."""

    d_ff: int
    bias: bool = False


@dataclass(frozen=True, eq=False)
class Sparse:
    """A layer of experts as a recipe describes it."""

    recipe: Recipe
    d_ff: int
    num_experts: int


@dataclass(frozen=True)
class Norm:
    """The norm of the residual stream.

    Attributes:
        kind: ``"rms"`` or ``"layer"``.
        eps: ε.
        bias: whether a LayerNorm has a bias.
    """

    kind: str = "rms"
    eps: float = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("rms", "layer"):
            raise ValueError(f"norm must be rms or layer, got {self.kind!r}")

    def of_width(self, d_model: int, *, rng: Any, dtype: Any) -> RMSNorm | LayerNorm:
        """The layer for vectors of this length."""
        if self.kind == "rms":
            return RMSNorm(d_model, self.eps, rng=rng, dtype=dtype)
        return LayerNorm(d_model, self.eps, self.bias, rng=rng, dtype=dtype)


@dataclass(frozen=True, eq=False)
class Layer:
    """Attention and a feed-forward network, dense or sparse."""

    attention: Heads | LatentHeads
    feed_forward: Dense | Sparse


@dataclass(frozen=True, eq=False)
class TransformerConfig:
    """A decoder-only transformer, layer by layer.

    Attributes:
        vocab_size: V.
        d_model: width of the residual stream.
        context: the longest sequence, in tokens.
        layers: attention and feed-forward pairs.
        norm: of the residual stream.
        norm_first: h = x + m f(norm(x)); otherwise h = x + m norm(f(x)).
        tied: the output matrix is the embedding.
        output_bias: whether the logits have a learned bias.
        embedding_multiplier: embeddings are multiplied by it (Granite).
        residual_multiplier: m above (Granite).
        logit_divisor: logits are divided by it (Granite).
        balance_coefficient: of the balance loss that is taken over all layers at once, see
            :func:`moe_numpy.moe.losses.balance_of_traces`; those of single layers are part of their recipes.
        images: their size and that of their patches, see :class:`moe_numpy.nn.PatchEmbedding`; None without images.
    """

    vocab_size: int
    d_model: int
    context: int
    layers: tuple[Layer, ...]
    norm: Norm = field(default_factory=Norm)
    norm_first: bool = True
    tied: bool = False
    output_bias: bool = False
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logit_divisor: float = 1.0
    balance_coefficient: float = 0.0
    images: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        require_sizes(vocab_size=self.vocab_size, d_model=self.d_model, context=self.context, layers=len(self.layers))

    @property
    def transformer(self) -> "TransformerConfig":
        """Itself: what :class:`Transformer` asks every configuration for."""
        return self

    @property
    def sparse_layers(self) -> list[Sparse]:
        """The layers with experts, in order."""
        return [layer.feed_forward for layer in self.layers if isinstance(layer.feed_forward, Sparse)]

    @property
    def num_experts(self) -> int:
        """E, of the layer with the most; 0 in a dense model."""
        return max((part.num_experts for part in self.sparse_layers), default=0)

    @property
    def routed_layers(self) -> list[int]:
        """The indices of the layers with a router."""
        return [i for i, layer in enumerate(self.layers) if _routes(layer.feed_forward)]

    @property
    def num_routes(self) -> int:
        """The options of a router: experts, zero-computation ones included, or groups; 0 without routers."""
        return max((_routes(layer.feed_forward) for layer in self.layers), default=0)


def _routes(part: Dense | Sparse) -> int:
    if not isinstance(part, Sparse) or part.recipe.router is None:
        return 0
    return (part.recipe.groups or (part.num_experts + part.recipe.zero_experts,))[0]
