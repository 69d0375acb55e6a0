"""Hunyuan 3 (Tencent 2026): a sigmoid router with a bias, norms of queries and keys before the rotation."""

from ...models import TransformerConfig
from ...models.transformer_config import Dense, Norm, Sparse
from ...moe import Recipe, RouterConfig
from ...moe.balancers import LossFreeBias
from ...moe.gates import Gate, Renormalize, Scale
from ...moe.selection import TopK
from ...nn import AttentionParts
from ...nn.attention import QueryKeyNorm
from ...ops import Sigmoid
from ..fields import Fields
from .decoder import LLAMA, QUERY_KEY_NORMS, alternating, heads, mlp, read_rotary, read_sizes, sparse_layers
from .family import Family


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-5, num_kv_heads=8, d_head=128)
    bias, network_bias = fields.flag("attention_bias"), fields.flag("mlp_bias")
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=11158840.0)
    parts = AttentionParts(rotary, bias=bias, output_bias=bias, norm=QueryKeyNorm(eps=sizes.eps))
    scale = fields.factor("router_scaling_factor", default=2.826)
    router = RouterConfig(
        TopK(fields.size("num_experts_per_tok", default=8)),
        scores=Sigmoid,
        gates=(Gate(Renormalize, epsilon=1e-20), Scale(scale)),
        balancer=LossFreeBias(0.001),
    )
    shared = fields.size("num_shared_experts", default=1)
    recipe = Recipe(router, shared_experts=shared, shared_bias=network_bias)
    d_ff, num_experts = fields.size("moe_intermediate_size", default=1536), fields.size("num_experts", default=192)
    fields.skip("enable_moe_fp32_combine", "num_nextn_predict_layers")
    sparse = sparse_layers(fields, sizes.num_layers, first=1)
    dense = Dense(fields.integer("intermediate_size"), network_bias)
    experts = Sparse(recipe, d_ff, num_experts)
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(heads(sizes, parts), sparse.__getitem__, experts, dense, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


FAMILY = Family(
    transformer,
    {
        **LLAMA,
        **QUERY_KEY_NORMS,
        **mlp(),
        **mlp("feed_forward.shared", "mlp.shared_mlp"),
        "feed_forward.router.weight": "mlp.router.gate.weight",
        "feed_forward.router.balancer_state": "mlp.expert_bias",
    },
    balance=None,
    further_layers=True,
)
