"""Qwen2-MoE (Qwen Team 2024), with a gated shared expert, and Qwen3-MoE (2025), with norms of queries and keys."""

from dataclasses import replace
from typing import Any

from ...models import ModelConfig, TransformerConfig
from ...models.transformer_config import Dense, Layer, Norm, Sparse
from ...moe import Recipe
from ...nn import AttentionParts
from ...nn.attention import QueryKeyNorm
from ..fields import Fields
from .decoder import (
    LLAMA,
    QUERY_KEY_NORMS,
    ROUTER,
    Sizes,
    alternating,
    common_settings,
    heads,
    mlp,
    read_rotary,
    read_sizes,
)
from .family import Family
from .olmoe import softmax_router


def _layers(
    fields: Fields, sizes: Sizes, parts: AttentionParts, windows: list[int | None], recipe: Recipe
) -> tuple[Layer, ...]:
    """Layer i is sparse where (i + 1) is a multiple of ``decoder_sparse_step`` and i not in ``mlp_only_layers``."""
    step = fields.integer("decoder_sparse_step", default=1)
    dense_layers = fields.take(list[int], "mlp_only_layers", default=[])
    experts = Sparse(recipe, fields.size("moe_intermediate_size"), fields.size("num_experts", "num_local_experts"))
    dense = Dense(fields.integer("intermediate_size"))
    attention = [heads(sizes, replace(parts, window=window)) for window in windows]
    sparse = lambda i: (i + 1) % step == 0 and i not in dense_layers  # noqa: E731
    return alternating(attention, sparse, experts, dense, sizes.num_layers)


def _window(fields: Fields) -> int | None:
    window = fields.integer("sliding_window", default=None, least=0)
    return window if fields.flag("use_sliding_window") and window else None


def qwen2(fields: Fields) -> TransformerConfig:
    """The model that the settings describe. Windows are those of transformers: odd layers below max_window_layers."""
    sizes = read_sizes(fields, eps=1e-6, num_kv_heads=16)
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=10000.0)
    parts = AttentionParts(rotary, bias=fields.flag("qkv_bias", default=True))
    window, below = _window(fields), fields.integer("max_window_layers", default=28, least=0)
    types = fields.take(list[str], "layer_types", default=None)
    if types is None:
        slides = [window is not None and i < below and (i + 1) % 2 == 1 for i in range(sizes.num_layers)]
    else:
        slides = [kind == "sliding_attention" for kind in layer_types(fields, types, sizes.num_layers)]
        if any(slides) and window is None:
            fields.refuse("layer_types", "windows need use_sliding_window and a sliding_window of at least 1")
    recipe = Recipe(
        softmax_router(fields.size("num_experts_per_tok", default=4), fields.flag("norm_topk_prob")),
        shared_experts=1,
        shared_d_ff=fields.size("shared_expert_intermediate_size"),
        gated_shared=True,
    )
    windows = [window if slide else None for slide in slides]
    return TransformerConfig(
        *sizes.outside,
        layers=_layers(fields, sizes, parts, windows, recipe),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


def qwen2_settings_of(config: ModelConfig) -> dict[str, Any]:
    """For a configuration of ours, whose layers must have a gated shared expert where they are sparse."""
    recipe = config.layer_recipe
    router = recipe.router
    dense = [i for i in range(config.num_layers) if not config.is_sparse(i)]
    return common_settings(config, "Qwen2MoeForCausalLM") | {
        "model_type": "qwen2_moe",
        "qkv_bias": False,
        "num_experts": max(config.num_experts, 1),
        "num_experts_per_tok": max(1, int(config.experts_per_token)),
        "moe_intermediate_size": config.d_ff,
        "shared_expert_intermediate_size": max(1, recipe.shared_experts) * config.d_ff,
        "intermediate_size": (config.dense_d_ff or config.active_width) if dense else config.d_ff,
        "norm_topk_prob": router is not None and len(router.gates) > 0,
        "mlp_only_layers": dense,
        "decoder_sparse_step": 1,
        "use_sliding_window": False,
    }


def layer_types(fields: Fields, types: list[str], num_layers: int, other: str = "sliding_attention") -> list[str]:
    """``layer_types``, one for each layer, ``full_attention`` or the other."""
    if len(types) != num_layers or set(types) - {"full_attention", other}:
        fields.refuse("layer_types", f"expected full_attention or {other} for each of {num_layers} layers")
    return types


def qwen3(
    fields: Fields, *, num_kv_heads: int = 4, top_k: int = 8, base: float = 10000.0, normalize: bool = False
) -> TransformerConfig:
    """The model that the settings describe, with the defaults of a family; ``normalize`` if it always does."""
    sizes = read_sizes(fields, eps=1e-6, num_kv_heads=num_kv_heads)
    bias = fields.flag("attention_bias")
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=base)
    parts = AttentionParts(rotary, bias=bias, output_bias=bias, norm=QueryKeyNorm(eps=sizes.eps))
    window = _window(fields)
    if normalize:
        fields.expect("norm_topk_prob", True, default=True)
    normalize = fields.flag("norm_topk_prob", default=normalize)
    recipe = Recipe(softmax_router(fields.size("num_experts_per_tok", default=top_k), normalize))
    fields.skip("layer_types", "max_window_layers")  # transformers does not read them either: all layers slide or none
    return TransformerConfig(
        *sizes.outside,
        layers=_layers(fields, sizes, parts, [window] * sizes.num_layers, recipe),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


QWEN2 = Family(
    qwen2,
    {
        **LLAMA,
        **ROUTER,
        **mlp(),
        **mlp("feed_forward.shared", "mlp.shared_expert"),
        "feed_forward.shared_gate": "mlp.shared_expert_gate",
    },
    settings_of=qwen2_settings_of,
)
QWEN3 = Family(qwen3, {**LLAMA, **QUERY_KEY_NORMS, **ROUTER, **mlp()})
