"""Llama (Touvron et al. 2023): dense. What upcycling starts from."""

from typing import Any

from ...models import ModelConfig, TransformerConfig
from ...models.transformer_config import Dense, Norm
from ...nn import AttentionParts
from ..fields import Fields
from .decoder import LLAMA, alternating, common_settings, heads, mlp, read_rotary, read_sizes
from .family import Family


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-6)
    bias = fields.flag("attention_bias")
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=10000.0)
    dense = Dense(fields.integer("intermediate_size"), fields.flag("mlp_bias"))
    attention = heads(sizes, AttentionParts(rotary, bias=bias, output_bias=bias))
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(attention, lambda i: False, None, dense, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """For a configuration of ours, which must be dense."""
    return common_settings(config, "LlamaForCausalLM") | {"model_type": "llama", "intermediate_size": config.d_ff}


FAMILY = Family(transformer, {**LLAMA, **mlp()}, settings_of=settings_of)
