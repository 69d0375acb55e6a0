"""Phi-3.5-MoE (Abdin et al. 2024): sparsemixer, LayerNorm, LongRoPE."""

from functools import partial
from typing import Any

from ...models import TransformerConfig
from ...models.transformer_config import Norm, Sparse
from ...moe import Recipe, RouterConfig
from ...moe.selection import TopK
from ...moe.sparse_mixer import SparseMixer
from ...nn import AttentionParts, Rotary
from ...nn.rotary import LongRoPE
from ..fields import Fields
from ..pieces import OneByOne
from .decoder import LLAMA, alternating, heads, read_sizes, rope_settings
from .family import Family


def _rotary(fields: Fields, context: int) -> Rotary:
    """LongRoPE or none. Above the original context the long factors count, as its publisher has it.

    transformers 5.23 always uses the short ones.
    """
    rope = rope_settings(fields)
    base = rope.number("rope_theta", default=1e6, above=1)
    kind = rope.take(str, "rope_type", "type", default="default")
    scaling: Any = None
    original = fields.integer("original_max_position_embeddings", default=None)
    if kind in ("longrope", "su"):
        inside = rope.integer("original_max_position_embeddings", default=context)
        rope.skip("attention_factor", "factor")  # the two below are used in their place
        scaling = LongRoPE(
            original or inside,
            rope.take(tuple[float, ...], "short_factor"),
            rope.take(tuple[float, ...], "long_factor"),
            rope.number("short_mscale", above=0),
            rope.number("long_mscale", above=0),
        )
    elif kind != "default":
        name = "rope_type" if "rope_type" in rope.values else "type"
        rope.refuse(name, "of the types of rotation only default, longrope are supported in phimoe")
    rope.finish()
    return Rotary(base, scaling=scaling)


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-5, num_kv_heads=8)
    bias = fields.flag("attention_bias")
    parts = AttentionParts(
        _rotary(fields, sizes.context),
        bias=bias,
        output_bias=bias,
        window=fields.integer("sliding_window", default=None),
    )
    fields.expect("num_experts_per_tok", 2, default=2)
    fields.skip("input_jitter_noise")
    epsilon = fields.number("router_jitter_noise", default=0.01, least=0, below=1)
    router = RouterConfig(TopK(2), scores=partial(SparseMixer.apply, epsilon=epsilon), choose_by="logits", gates=())
    experts = Sparse(Recipe(router), fields.size("intermediate_size"), fields.size("num_local_experts", default=16))
    tied, output_bias = fields.flag("tie_word_embeddings"), fields.flag("lm_head_bias")
    if tied and output_bias:
        fields.refuse("lm_head_bias", "an output matrix that is the embedding has no bias here")
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(heads(sizes, parts), lambda i: True, experts, None, sizes.num_layers),
        norm=Norm("layer", sizes.eps),
        tied=tied,
        output_bias=output_bias,
    )


FAMILY = Family(
    transformer,
    {**LLAMA, "feed_forward.router.weight": "block_sparse_moe.gate.weight"},
    OneByOne("block_sparse_moe.experts.{e}", ("w1", "w3", "w2")),
)
