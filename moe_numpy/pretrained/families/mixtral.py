"""Mixtral (Jiang et al. 2024): every layer sparse, top-k of a softmax, renormalised."""

from typing import Any

from ...models import ModelConfig, TransformerConfig
from ...models.transformer_config import Norm, Sparse
from ...moe import Recipe, recipes
from ...nn import AttentionParts
from ..fields import Fields
from ..pieces import OneByOne
from .decoder import LLAMA, alternating, common_settings, heads, read_rotary, read_sizes
from .family import Family


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-5, num_kv_heads=8)
    window = fields.integer("sliding_window", default=None)
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=1e6)
    recipe: Recipe = recipes.mixtral(top_k=fields.size("num_experts_per_tok", default=2), balance=0)
    fields.skip("router_jitter_noise")  # of training
    experts = Sparse(recipe, fields.size("intermediate_size"), fields.size("num_local_experts", default=8))
    attention = heads(sizes, AttentionParts(rotary, window=window))
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(attention, lambda i: True, experts, None, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """For a configuration of ours, which must be sparse in all layers."""
    return common_settings(config, "MixtralForCausalLM") | {
        "model_type": "mixtral",
        "intermediate_size": config.d_ff,
        "num_local_experts": max(config.num_experts, 1),
        "num_experts_per_tok": max(1, int(config.experts_per_token)),
        "sliding_window": None,
    }


FAMILY = Family(
    transformer,
    {**LLAMA, "feed_forward.router.weight": "block_sparse_moe.gate.weight"},
    OneByOne("block_sparse_moe.experts.{e}", ("w1", "w3", "w2")),
    settings_of=settings_of,
)
