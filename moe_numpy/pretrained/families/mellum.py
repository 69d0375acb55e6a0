"""Mellum 2 (JetBrains 2026): Qwen3's layers with windows in some, and a rotation for each kind of layer."""

from dataclasses import replace

from ...models import TransformerConfig
from ...models.transformer_config import Dense, Norm, Sparse
from ...moe import Recipe
from ...nn import AttentionParts
from ...nn.attention import QueryKeyNorm
from ..fields import Fields
from .decoder import alternating, heads, read_rotary, read_sizes, sparse_layers
from .olmoe import softmax_router
from .qwen_moe import QWEN3, layer_types

_BASES = {"full_attention": 500000.0, "sliding_attention": 10000.0}


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-6, num_kv_heads=4, d_head=128)
    n, bias = sizes.num_layers, fields.flag("attention_bias")
    kinds = layer_types(fields, fields.take(list[str], "layer_types", default=["full_attention"] * n), n)
    given, windows = (
        fields.part("rope_parameters"),
        {"sliding_attention": fields.integer("sliding_window", default=1024)},
    )
    attention = {}
    for kind, base in _BASES.items():
        part = None if given is None else given.part(kind)
        if part is None and given is not None and kind in kinds:
            fields.refuse("rope_parameters", f"lacks {kind}, which layer_types has")
        rope = Fields({}, fields.file) if part is None else part
        parts = AttentionParts(
            read_rotary(fields, sizes.d_head, sizes.context, base=base, share=1.0, rope=rope),
            bias=bias,
            output_bias=bias,
            norm=QueryKeyNorm(eps=sizes.eps),
            window=windows.get(kind),
        )
        attention[kind] = heads(sizes, parts)
    if given is not None:
        given.finish()
    router = softmax_router(fields.size("num_experts_per_tok", default=8), fields.flag("norm_topk_prob", default=True))
    num_experts = fields.size("num_experts", "num_local_experts", default=64)
    experts = Sparse(Recipe(router), fields.size("moe_intermediate_size", default=896), num_experts)
    fields.skip("num_nextn_predict_layers", "num_mtp_layers", "mtp_layer_types", "mtp_mlp_layer_types")
    sparse = sparse_layers(fields, n, first=0)
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(
            [attention[kind] for kind in kinds],
            sparse.__getitem__,
            experts,
            Dense(fields.integer("intermediate_size")),
            n,
        ),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


FAMILY = replace(QWEN3, transformer=transformer, further=r"mtp\.")
