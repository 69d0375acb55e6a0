"""The sizes of a model, from which everything here is counted."""

from dataclasses import dataclass

from ..models import ModelConfig
from ..nn.sizes import require_countable
from .layers import FeedForward, GroupedQueryAttention, LatentAttention, require_at_least


@dataclass(frozen=True)
class Architecture:
    """The sizes of a transformer, dense or sparse, decoder-only or encoder and decoder.

    Attributes:
        d_model: d, width of the residual stream.
        vocab_size: V.
        num_layers: layers of the decoder.
        attention: the shape of every attention in the model.
        feed_forward: the network of a dense layer; None without dense layers.
        expert: one expert of a sparse layer; None without sparse layers.
        num_experts: E, experts per sparse layer.
        top_k: k, experts per token in a sparse layer.
        shared_expert: the network that serves every token beside them; several are one as wide as their sum.
        shared_expert_gate: a weight vector of width d whose sigmoid scales the shared expert (Qwen2).
        router_bias: the router has a bias of width E.
        balancing_bias: E numbers per sparse layer that only the balancing rule changes (DeepSeek-V3).
        first_dense_layers: number of dense layers at the start of each stack.
        moe_every: of the layers after them, every n-th is sparse, counted from the last.
        num_encoder_layers: layers of the encoder; each decoder layer then also attends to its output.
        tied_embeddings: input embedding and output share one matrix.
        relative_positions: buckets of each stack's table of position biases, one bias per head (T5).
        num_local_layers: decoder layers in which a token attends to the last ``attention_window`` tokens only.
        attention_window: that number, the token itself included; None without local layers.

    Raises:
        ValueError: a size is out of range or missing; the message names it.
    """

    d_model: int
    vocab_size: int
    num_layers: int
    attention: GroupedQueryAttention | LatentAttention
    feed_forward: FeedForward | None = None
    expert: FeedForward | None = None
    num_experts: int = 0
    top_k: int = 0
    shared_expert: FeedForward | None = None
    shared_expert_gate: bool = False
    router_bias: bool = False
    balancing_bias: bool = False
    first_dense_layers: int = 0
    moe_every: int = 1
    num_encoder_layers: int = 0
    tied_embeddings: bool = False
    relative_positions: int = 0
    num_local_layers: int = 0
    attention_window: int | None = None

    def __post_init__(self) -> None:
        require_at_least(1, self, "d_model", "vocab_size", "num_layers", "moe_every")
        require_at_least(0, self, "num_experts", "first_dense_layers", "num_encoder_layers", "relative_positions")
        require_countable(**{name: getattr(self, name) for name in ("num_layers", "num_encoder_layers", "num_experts")})
        if not 0 <= self.num_local_layers <= self.num_layers:
            raise ValueError(
                f"num_local_layers must be between 0 and num_layers={self.num_layers}, got {self.num_local_layers}"
            )
        if self.num_local_layers and (self.attention_window is None or self.attention_window < 1):
            raise ValueError(f"attention_window must be at least 1 where layers are local, got {self.attention_window}")
        if self.num_experts and not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k must be between 1 and num_experts={self.num_experts}, got {self.top_k}")
        if self.num_sparse_layers and self.expert is None:
            raise ValueError(f"{self.num_sparse_layers} sparse layers need an expert, got None")
        if self.num_dense_layers and self.feed_forward is None:
            raise ValueError(f"{self.num_dense_layers} dense layers need a feed_forward, got None")

    def is_sparse(self, layer: int, num_layers: int) -> bool:
        """Whether layer ``layer`` (from 0) of a stack of ``num_layers`` has experts."""
        late_enough = layer >= self.first_dense_layers
        return self.num_experts > 0 and late_enough and (num_layers - 1 - layer) % self.moe_every == 0

    @property
    def num_sparse_layers(self) -> int:
        """Layers with experts, in both stacks."""
        stacks = (self.num_encoder_layers, self.num_layers)
        return sum(self.is_sparse(i, length) for length in stacks for i in range(length))

    @property
    def num_dense_layers(self) -> int:
        """Layers without experts, in both stacks."""
        return self.num_encoder_layers + self.num_layers - self.num_sparse_layers

    def keys_attended(self, context: int) -> int:
        """Keys that the last of ``context`` decoder tokens attends to, summed over the layers.

        ``context`` per layer, min(context, attention_window) in a local one; with an encoder, ``context``
        of its tokens per decoder layer on top.

        Raises:
            ValueError: context is below 1.
        """
        if context < 1:
            raise ValueError(f"context must be at least 1 token, got {context}")
        near = min(context, self.attention_window or context)
        across = self.num_layers * context if self.num_encoder_layers else 0
        return (self.num_layers - self.num_local_layers) * context + self.num_local_layers * near + across


def architecture_of(config: ModelConfig) -> Architecture:
    """The sizes of ``Transformer(config)``; its total and active parameters are those counted here.

    Raises:
        ValueError: an Architecture cannot express the recipe: Soft MoE, trees of routers, zero-computation
            experts, learned noise, or a fractional number of experts per token; or the model takes images.
    """
    if config.image_size:
        raise ValueError(f"a model of images, image_size={config.image_size}, cannot be counted as an Architecture")
    attention = GroupedQueryAttention(config.num_heads, config.num_kv_heads, config.d_model // config.num_heads)
    sizes = config.d_model, config.vocab_size, config.num_layers
    if config.num_experts == 0:
        return Architecture(*sizes, attention, feed_forward=FeedForward(config.d_ff))
    recipe, top_k = config.layer_recipe, config.experts_per_token
    router = recipe.router
    if router is None or recipe.groups or recipe.zero_experts or top_k != int(top_k):
        raise ValueError(f"the layers of recipe {config.recipe!r} cannot be counted as an Architecture")
    if router.noise is not None and router.noise.learned:
        raise ValueError(f"the learned noise of recipe {config.recipe!r} cannot be counted as an Architecture")
    expert = {
        "swiglu": FeedForward(config.d_ff),
        "gpt_oss": FeedForward(config.d_ff, bias=True),
        "relu": FeedForward(config.d_ff, gated=False, bias=True),
        "gelu": FeedForward(config.d_ff, gated=False, bias=True),
    }[recipe.experts]
    has_dense = not all(config.is_sparse(i) for i in range(config.num_layers))
    return Architecture(
        *sizes,
        attention,
        feed_forward=FeedForward(config.dense_d_ff or config.active_width) if has_dense else None,
        expert=expert,
        num_experts=config.num_experts,
        top_k=int(top_k),
        shared_expert=FeedForward(recipe.shared_experts * config.d_ff) if recipe.shared_experts else None,
        shared_expert_gate=recipe.gated_shared,
        router_bias=router.bias,
        balancing_bias=router.balancer is not None,
        moe_every=config.moe_every,
    )
