"""OLMoE (Muennighoff et al. 2024), and FlexOlmo (Shi et al. 2025), which normalises after each part."""

from functools import partial

from ...models import TransformerConfig
from ...models.transformer_config import Norm, Sparse
from ...moe import Recipe, RouterConfig
from ...moe.gates import Gate, Renormalize
from ...moe.selection import TopK
from ...nn import AttentionParts
from ...nn.attention import QueryKeyNorm
from ..fields import Fields
from .decoder import LLAMA, QUERY_KEY_NORMS, ROUTER, alternating, heads, read_rotary, read_sizes
from .family import Family


def softmax_router(top_k: int, normalize: bool) -> RouterConfig:
    """Top-k of a softmax, renormalised or not."""
    return RouterConfig(TopK(top_k), gates=(Gate(Renormalize),) if normalize else ())


def transformer(
    fields: Fields, *, norm_first: bool, eps: float, base: float, num_experts: int, top_k: int
) -> TransformerConfig:
    """The model that the settings describe, with the defaults of a family."""
    sizes = read_sizes(fields, eps=eps)
    bias = fields.flag("attention_bias")
    parts = AttentionParts(
        read_rotary(fields, sizes.d_head, sizes.context, base=base),
        bias=bias,
        output_bias=bias,
        norm=QueryKeyNorm("width", eps=sizes.eps),
        clip=fields.number("clip_qkv", default=None, above=0) if norm_first else None,
    )
    router = softmax_router(fields.size("num_experts_per_tok", default=top_k), fields.flag("norm_topk_prob"))
    experts = Sparse(Recipe(router), fields.size("intermediate_size"), fields.size("num_experts", default=num_experts))
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(heads(sizes, parts), lambda i: True, experts, None, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        norm_first=norm_first,
        tied=fields.flag("tie_word_embeddings"),
    )


OLMOE = Family(
    partial(transformer, norm_first=True, eps=1e-5, base=10000.0, num_experts=64, top_k=8),
    {**LLAMA, **QUERY_KEY_NORMS, **ROUTER},
)
FLEX_OLMO = Family(
    partial(transformer, norm_first=False, eps=1e-6, base=500000.0, num_experts=7, top_k=5),
    {
        **LLAMA,
        **QUERY_KEY_NORMS,
        **ROUTER,
        "attention_norm": "post_attention_layernorm",
        "feed_forward_norm": "post_feedforward_layernorm",
    },
)
