"""This package's own models as an Architecture."""

from ..models import ModelConfig
from .architecture import Architecture
from .attention import GroupedQueryAttention
from .feed_forward import FeedForward


def architecture_of(config: ModelConfig) -> Architecture:
    """The sizes of ``Transformer(config)``: its parameters, total and active, are those counted here."""
    is_sparse = [config.is_sparse(i) for i in range(config.num_layers)]
    gated = config.experts == "swiglu"
    dense_width = config.dense_d_ff or config.top_k * config.d_ff if config.num_experts else config.d_ff
    return Architecture(
        d_model=config.d_model,
        vocab_size=config.vocab_size,
        num_layers=config.num_layers,
        attention=GroupedQueryAttention(
            config.num_heads, config.num_kv_heads, config.d_model // config.num_heads
        ),
        feed_forward=None if all(is_sparse) else FeedForward(dense_width),
        expert=FeedForward(config.d_ff, gated=gated, bias=not gated) if any(is_sparse) else None,
        num_experts=config.num_experts,
        top_k=config.top_k if config.num_experts else 0,
        moe_every=config.moe_every,
    )
