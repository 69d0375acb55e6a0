"""GLM-4.5 (Zhipu 2025): DeepSeek-V3's router, ordinary attention of which half of each head rotates."""

from ...models import TransformerConfig
from ...models.transformer_config import Dense, Norm
from ...nn import AttentionParts
from ...nn.attention import QueryKeyNorm
from ..fields import Fields
from .decoder import LLAMA, QUERY_KEY_NORMS, ROUTER, alternating, heads, mlp, read_rotary, read_sizes
from .deepseek import SHARED, read_experts, sigmoid_router
from .family import Family


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-5, num_kv_heads=8)
    parts = AttentionParts(
        read_rotary(fields, sizes.d_head, sizes.context, base=10000.0, share=0.5),
        bias=fields.flag("attention_bias"),
        norm=QueryKeyNorm(eps=sizes.eps) if fields.flag("use_qk_norm") else None,
    )
    router = sigmoid_router(fields, top_k=8, groups=1, top_groups=1, normalize=True, scale=1.0)
    num_dense = fields.integer("first_k_dense_replace", default=1, least=0)
    fields.skip("num_nextn_predict_layers")
    experts, dense = read_experts(fields, router, shared=1), Dense(fields.integer("intermediate_size"))
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(heads(sizes, parts), lambda i: i >= num_dense, experts, dense, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


FAMILY = Family(transformer, {**LLAMA, **QUERY_KEY_NORMS, **ROUTER, **mlp(), **SHARED}, further_layers=True)
