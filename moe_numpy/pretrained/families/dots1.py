"""dots.llm1 (rednote 2025): DeepSeek-V3's router, ordinary attention, windows in the later layers."""

from dataclasses import replace

from ...models import TransformerConfig
from ...models.transformer_config import Dense, Norm
from ...nn import AttentionParts
from ...nn.attention import QueryKeyNorm
from ..fields import Fields
from .decoder import LLAMA, QUERY_KEY_NORMS, ROUTER, alternating, heads, mlp, read_rotary, read_sizes
from .deepseek import SHARED, read_experts, sigmoid_router
from .family import Family
from .qwen_moe import layer_types


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-6, num_kv_heads=32)
    bias = fields.flag("attention_bias")
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=10000.0)
    parts = AttentionParts(rotary, bias=bias, output_bias=bias, norm=QueryKeyNorm(eps=sizes.eps))
    window = fields.integer("sliding_window", default=None)
    below = fields.integer("max_window_layers", default=62, least=0)
    types = fields.take(list[str], "layer_types", default=None)
    if types is None:
        if "sliding_window" not in fields.values and below < sizes.num_layers:
            fields.refuse("sliding_window", f"needed, or null, since max_window_layers={below} is below the layers")
        slides = [window is not None and i >= below for i in range(sizes.num_layers)]
    else:
        slides = [kind != "full_attention" for kind in layer_types(fields, types, sizes.num_layers)]
        window = window or 4096
    fields.flag("use_sliding_window")  # not used in transformers either
    attention = [heads(sizes, replace(parts, window=window if slide else None)) for slide in slides]
    router = sigmoid_router(fields, top_k=None, groups=1, top_groups=1, normalize=False, scale=1.0)
    num_dense = fields.integer("first_k_dense_replace", default=0, least=0)
    experts, dense = read_experts(fields, router, shared=None), Dense(fields.integer("intermediate_size"))
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(attention, lambda i: i >= num_dense, experts, dense, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


FAMILY = Family(transformer, {**LLAMA, **QUERY_KEY_NORMS, **ROUTER, **mlp(), **SHARED}, balance=None)
