"""DeepSeek-V2 and V3 (2024): latent attention, shared experts, choice in groups. V3's router serves GLM and dots."""

from dataclasses import replace

from ...models import TransformerConfig
from ...models.transformer_config import Dense, LatentHeads, Norm, Sparse
from ...moe import Recipe, RouterConfig
from ...moe.balancers import LossFreeBias
from ...moe.gates import Gate, Renormalize, Scale
from ...moe.selection import GroupLimited, Selection, TopK
from ...nn import LatentParts, Rotary
from ...ops import Sigmoid
from ..fields import Fields
from .decoder import (
    LATENTS,
    NORMS,
    OUTSIDE,
    ROUTER,
    Sizes,
    alternating,
    mlp,
    mscale,
    read_rotary,
    read_sizes,
    rope_settings,
)
from .family import Family

SHARED = mlp("feed_forward.shared", "mlp.shared_experts")


def sigmoid_router(
    fields: Fields, *, top_k: int | None, groups: int, top_groups: int, normalize: bool, scale: float
) -> RouterConfig:
    """V3's: s = σ(h), chosen by s + b in the best groups, s renormalised and scaled. The defaults are a family's."""
    fields.expect("scoring_func", "sigmoid", "noaux_tc", default="sigmoid")
    fields.expect("topk_method", "noaux_tc", default="noaux_tc")
    fields.expect("moe_layer_freq", 1, default=1)
    k = fields.size("num_experts_per_tok", **({} if top_k is None else {"default": top_k}))
    num_groups = fields.size("n_group", default=groups)
    chosen = fields.size("topk_group", default=top_groups)
    choice: Selection = TopK(k) if num_groups == 1 else GroupLimited(k, num_groups, chosen, "top2")
    gates = (Gate(Renormalize, epsilon=1e-20),) if fields.flag("norm_topk_prob", default=normalize) else ()
    factor = fields.factor("routed_scaling_factor", default=scale)
    return RouterConfig(
        choice,
        scores=Sigmoid,
        gates=gates if factor == 1 else (*gates, Scale(factor)),
        balancer=LossFreeBias(0.001),
    )


def read_experts(fields: Fields, router: RouterConfig, *, shared: int | None, bias: bool = False) -> Sparse:
    """Routed experts, and shared ones ``n_shared_experts`` times as wide."""
    d_ff = fields.size("moe_intermediate_size")
    num_shared = fields.size("n_shared_experts", default=shared, least=0)
    recipe = Recipe(router, shared_experts=num_shared or 0, shared_bias=bias and bool(num_shared))
    return Sparse(recipe, d_ff, fields.size("n_routed_experts"))


def _attention(fields: Fields, sizes: Sizes, pairing: str) -> LatentHeads:
    if sizes.num_kv_heads != sizes.num_heads:
        fields.refuse("num_key_value_heads", f"latent attention has as many as num_attention_heads, {sizes.num_heads}")
    d_nope, d_rope = fields.size("qk_nope_head_dim", default=128), fields.size("qk_rope_head_dim", default=64)
    rope = rope_settings(fields)
    scale = (d_nope + d_rope) ** -0.5
    if rope.values.get("rope_type", rope.values.get("type")) not in (None, "default"):
        strength = rope.number("mscale_all_dim", default=0.0, least=0)
        scale *= mscale(rope.number("factor", default=1.0), strength) ** 2 if strength else 1
    rotary: Rotary = read_rotary(fields, d_rope, sizes.context, base=10000.0, pairing=pairing)
    return LatentHeads(
        sizes.num_heads,
        LatentParts(
            fields.size("q_lora_rank", default=None),
            fields.size("kv_lora_rank", default=512),
            d_nope,
            d_rope,
            fields.size("v_head_dim", default=128),
            rotary,
            scale,
            bias=fields.flag("attention_bias"),
        ),
    )


def _transformer(
    fields: Fields, sizes: Sizes, attention: LatentHeads, experts: Sparse, first: int, bias: bool
) -> TransformerConfig:
    dense = Dense(fields.integer("intermediate_size"), bias)
    num_dense = fields.integer("first_k_dense_replace", default=first, least=0)
    each = [attention] * sizes.num_layers
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(each, lambda i: i >= num_dense, experts, dense, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


def _sizes(fields: Fields) -> Sizes:
    fields.skip("aux_loss_alpha", "num_nextn_predict_layers", "num_mtp_layers", "qk_head_dim")
    return read_sizes(fields, eps=1e-6)  # its head_dim means something else and is not used


def v2(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = _sizes(fields)
    fields.expect("scoring_func", "softmax", default="softmax")
    fields.expect("moe_layer_freq", 1, default=1)
    fields.expect("norm_topk_prob", False, default=False)
    method = fields.expect("topk_method", "greedy", "group_limited_greedy", default="greedy")
    k = fields.size("num_experts_per_tok")
    num_groups, top_groups = fields.size("n_group", default=1), fields.size("topk_group", default=1)
    choice: Selection = TopK(k) if method == "greedy" else GroupLimited(k, num_groups, top_groups, "max")
    scale = fields.factor("routed_scaling_factor", default=1.0)
    router = RouterConfig(choice, gates=() if scale == 1 else (Scale(scale),))
    bias = fields.flag("mlp_bias")
    experts = read_experts(fields, router, shared=2, bias=bias)
    return _transformer(fields, sizes, _attention(fields, sizes, "neighbours"), experts, 0, bias)


def v3(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = _sizes(fields)
    fields.expect("mlp_bias", False, default=False)
    router = sigmoid_router(fields, top_k=8, groups=8, top_groups=4, normalize=True, scale=2.5)
    pairing = "neighbours" if fields.flag("rope_interleave", default=True) else "halves"
    experts = read_experts(fields, router, shared=1)
    return _transformer(fields, sizes, _attention(fields, sizes, pairing), experts, 3, False)


V2 = Family(v2, {**OUTSIDE, **NORMS, **LATENTS, **ROUTER, **mlp(), **SHARED}, balance=None)
V3 = replace(V2, transformer=v3, further_layers=True)
