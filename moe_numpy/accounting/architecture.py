"""The configuration that everything here is counted from."""

from dataclasses import dataclass

from .attention import GroupedQueryAttention, LatentAttention
from .feed_forward import FeedForward
from .ranges import require_at_least


@dataclass(frozen=True)
class Architecture:
    """The sizes of a transformer, dense or sparse, decoder-only or encoder and decoder.

    Attributes:
        d_model: d, width of the residual stream.
        vocab_size: V.
        num_layers: layers of the decoder.
        attention: the shape of every attention in the model.
        feed_forward: the network of a dense layer; None if there is no dense layer.
        expert: one expert of a sparse layer; None if there is no sparse layer.
        num_experts: E, experts in a sparse layer.
        top_k: k, experts that a token meets there.
        shared_expert: the network that every token meets beside them; several are one as wide as their sum.
        shared_expert_gate: a weight vector of width d whose sigmoid scales the shared expert (Qwen2).
        router_bias: the router has a bias of width E.
        balancing_bias: E numbers in each sparse layer that only the balancing rule changes (DeepSeek-V3).
        first_dense_layers: so many layers at the start of each stack are dense.
        moe_every: of the layers after them, every n-th is sparse, counted from the last.
        num_encoder_layers: layers of the encoder; each decoder layer then attends to its output too.
        tied_embeddings: one matrix embeds the input and makes the output.
        relative_positions: buckets of the table of position biases that each stack has (T5), one a head.
        num_local_layers: decoder layers whose tokens attend to the last ``attention_window`` tokens only.
        attention_window: as said there, the token itself included; None where no layer is local.

    Raises:
        ValueError: a size out of range or missing, by name.
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
        """Whether this layer of a stack of ``num_layers``, counted from 0, has experts."""
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
        """Keys that the last of ``context`` tokens of the decoder attends to, summed over the layers.

        ``context`` in each layer, or min(context, attention_window) in a local one; and where there is an
        encoder, ``context`` of its tokens in each layer besides.

        Raises:
            ValueError: context is below 1.
        """
        if context < 1:
            raise ValueError(f"context must be at least 1 token, got {context}")
        near = min(context, self.attention_window or context)
        across = self.num_layers * context if self.num_encoder_layers else 0
        return (self.num_layers - self.num_local_layers) * context + self.num_local_layers * near + across
