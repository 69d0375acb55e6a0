"""MiniMax-M2 (MiniMax 2025): sigmoid chosen by s + b, renormalised; norms over all heads, part of a head rotates."""

from ...models import TransformerConfig
from ...models.transformer_config import Norm, Sparse
from ...moe import Recipe, RouterConfig
from ...moe.balancers import LossFreeBias
from ...moe.selection import TopK
from ...nn import AttentionParts
from ...nn.attention import QueryKeyNorm
from ...ops import Sigmoid
from ..fields import Fields
from ..pieces import OneByOne
from .decoder import LLAMA, QUERY_KEY_NORMS, alternating, heads, read_rotary, read_sizes
from .family import Family


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-6, num_kv_heads=8, d_head=128)
    for name, only in (
        ("use_qk_norm", True),
        ("qk_norm_type", "per_layer"),
        ("scoring_func", "sigmoid"),
        ("use_routing_bias", True),
        ("shared_intermediate_size", 0),
    ):
        fields.expect(name, only, default=only)
    if set(fields.take(list[int], "attn_type_list", default=[1])) != {1}:
        fields.refuse("attn_type_list", "only 1, full attention, is supported")
    fields.skip("use_mtp", "num_mtp_modules", "mtp_transformer_layers", "mlp_intermediate_size", "router_jitter_noise")
    width = fields.size("rotary_dim", default=sizes.d_head)
    if width % 2 or width > sizes.d_head:
        fields.refuse("rotary_dim", f"must be even and at most head_dim={sizes.d_head}")
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=5e6, share=width / sizes.d_head)
    parts = AttentionParts(rotary, norm=QueryKeyNorm("width", eps=sizes.eps))
    top_k = fields.size("num_experts_per_tok", default=8)
    recipe = Recipe(RouterConfig(TopK(top_k), scores=Sigmoid, balancer=LossFreeBias(0.001)))
    experts = Sparse(recipe, fields.size("intermediate_size"), fields.size("num_local_experts", default=256))
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(heads(sizes, parts), lambda i: True, experts, None, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


FAMILY = Family(
    transformer,
    {
        **LLAMA,
        **QUERY_KEY_NORMS,
        "feed_forward.router.weight": "block_sparse_moe.gate.weight",
        "feed_forward.router.balancer_state": "block_sparse_moe.e_score_correction_bias",
    },
    OneByOne("block_sparse_moe.experts.{e}", ("w1", "w3", "w2")),
    further_layers=True,
)
