"""Hunyuan-A13B (Tencent 2025): norms of queries and keys after the rotation, k for each layer, a shared network."""

from ...models import TransformerConfig
from ...models.transformer_config import Layer, Norm, Sparse
from ...moe import Recipe
from ...nn import AttentionParts, Rotary
from ...nn.attention import QueryKeyNorm
from ..fields import Fields
from .decoder import LLAMA, Sizes, heads, mlp, read_rotary, read_sizes, rope_settings
from .family import Family
from .olmoe import softmax_router

_WITHOUT_EFFECT = """
    add_classification_head anyres_pooling_size anyres_vit_max_image_size anyres_vit_two_views capacity_factor
    cla_share_factor class_num dense_list eod_token_id group_limited_greedy im_end_id im_newline_id im_start_id
    image_token_id kv_lora_rank mask_init_id moe_drop_tokens moe_random_routing_dropped_token n_group norm_topk_prob
    num_media_embeds org_vocab_size pool_type position_embedding_xdrope q_lora_rank qk_nope_head_dim
    qk_rope_head_dim routed_scaling_factor sep_token_id text_end_id text_start_id topk_group use_mixed_mlp_moe
    use_mla v_head_dim vit_path
"""


def _each(fields: Fields, name: str, num_layers: int, default: int) -> list[int]:
    """A number, or one for each layer."""
    value = fields.take(int | list[int], name, default=default)
    values = [value] * num_layers if isinstance(value, int) else value
    if len(values) != num_layers or min(values, default=0) < 1:
        fields.refuse(name, f"expected a number of at least 1, or one for each of {num_layers} layers")
    return list(values)


def _rotary(fields: Fields, sizes: Sizes) -> Rotary:
    """``dynamic`` with ``alpha`` is a larger base for all lengths, base alpha^(D / (D - 2))."""
    rope = rope_settings(fields)
    alpha = rope.number("alpha", default=None, least=0)
    if not alpha or rope.values.get("rope_type", rope.values.get("type")) != "dynamic":
        return read_rotary(fields, sizes.d_head, sizes.context, base=10000.0)
    if sizes.d_head < 4 or sizes.d_head % 2:
        fields.refuse("rope_scaling", f"alpha needs an even head_dim of at least 4, got {sizes.d_head}")
    base = rope.number("rope_theta", default=10000.0, above=1)
    rope.skip("rope_type", "type", "factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    rope.finish()
    return Rotary(base * alpha ** (sizes.d_head / (sizes.d_head - 2)))


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-5)
    n, bias = sizes.num_layers, fields.flag("attention_bias")
    for name, only in (("use_qk_norm", True), ("use_cla", False), ("norm_type", "rms"), ("mlp_bias", False)):
        fields.expect(name, only, default=only)
    fields.expect("moe_layer_num_skipped", 0, default=0)
    fields.skip(*_WITHOUT_EFFECT.split())
    norm = QueryKeyNorm(after_rotation=True, eps=sizes.eps)
    attention = heads(sizes, AttentionParts(_rotary(fields, sizes), bias=bias, output_bias=bias, norm=norm))
    d_ff = fields.size("intermediate_size")
    for name, size in (("num_shared_expert", 1), ("moe_intermediate_size", d_ff)):
        if set(_each(fields, name, n, size)) != {size}:
            fields.refuse(name, f"only {size} is supported")
    counts = set(_each(fields, "num_experts", n, 1))
    if len(counts) > 1:
        fields.refuse("num_experts", "only the same number in each layer is supported")
    recipes = [Recipe(softmax_router(k, True), shared_experts=1) for k in _each(fields, "moe_topk", n, 1)]
    return TransformerConfig(
        *sizes.outside,
        layers=tuple(Layer(attention, Sparse(recipe, d_ff, min(counts))) for recipe in recipes),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


FAMILY = Family(
    transformer,
    {
        **LLAMA,
        "attention.query_norm": "self_attn.query_layernorm.weight",
        "attention.key_norm": "self_attn.key_layernorm.weight",
        "feed_forward.router.weight": "mlp.gate.wg.weight",
        **mlp("feed_forward.shared", "mlp.shared_mlp"),
    },
    balance=None,
)
