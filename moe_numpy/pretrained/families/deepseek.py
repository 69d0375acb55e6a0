"""DeepSeek-V2 and V3 (2024): latent attention, shared experts, choice in groups. V3's router serves GLM and dots.

GLM-4.7-Flash is V3 with other sizes. In DeepSeek-V3.2 (2025) and GLM-5 (2026) an indexer chooses which keys a query
sees; up to ``index_topk`` tokens it chooses all of them, and these models are read as V3 with that context.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

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
    sparse_layers,
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
    fields: Fields, sizes: Sizes, attention: LatentHeads, experts: Sparse, sparse: list[bool], bias: bool = False
) -> TransformerConfig:
    dense = Dense(fields.integer("intermediate_size"), bias)
    each = [attention] * sizes.num_layers
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(each, sparse.__getitem__, experts, dense, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


def _sizes(fields: Fields, eps: float = 1e-6) -> Sizes:
    fields.skip("aux_loss_alpha", "num_nextn_predict_layers", "num_mtp_layers", "qk_head_dim")
    return read_sizes(fields, eps=eps)  # its head_dim means something else and is not used


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
    num_dense = fields.integer("first_k_dense_replace", default=0, least=0)
    sparse = [i >= num_dense for i in range(sizes.num_layers)]
    return _transformer(fields, sizes, _attention(fields, sizes, "neighbours"), experts, sparse, bias)


def v3(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = _sizes(fields)
    fields.expect("mlp_bias", False, default=False)
    router = sigmoid_router(fields, top_k=8, groups=8, top_groups=4, normalize=True, scale=2.5)
    experts = read_experts(fields, router, shared=1)
    num_dense = fields.integer("first_k_dense_replace", default=3, least=0)
    sparse = [i >= num_dense for i in range(sizes.num_layers)]
    return _transformer(fields, sizes, _attention(fields, sizes, _pairing(fields)), experts, sparse)


def _pairing(fields: Fields) -> str:
    return "neighbours" if fields.flag("rope_interleave", default=True) else "halves"


def glm_lite(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = _sizes(fields, eps=1e-5)
    router = sigmoid_router(fields, top_k=4, groups=1, top_groups=1, normalize=True, scale=1.8)
    experts, sparse = read_experts(fields, router, shared=1), sparse_layers(fields, sizes.num_layers, first=1)
    return _transformer(fields, sizes, _attention(fields, sizes, _pairing(fields)), experts, sparse)


def indexed(fields: Fields, *, eps: float, groups: int, top_groups: int) -> TransformerConfig:
    """The model that the settings describe, for sequences in which the indexer chooses every key."""
    sizes = _sizes(fields, eps=eps)
    for name, only in (("mlp_bias", False), ("rope_interleave", True)):
        fields.expect(name, only, default=only)
    fields.skip(*_INDEXER.split())
    router = sigmoid_router(fields, top_k=8, groups=groups, top_groups=top_groups, normalize=True, scale=2.5)
    experts, sparse = read_experts(fields, router, shared=1), sparse_layers(fields, sizes.num_layers, first=3)
    if sparse != sorted(sparse):
        fields.refuse("mlp_layer_types", "dense layers must come before sparse ones")
    model = _transformer(fields, sizes, _attention(fields, sizes, "neighbours"), experts, sparse)
    return replace(model, context=min(sizes.context, fields.integer("index_topk", default=2048)))


_INDEXER = """
    index_head_dim index_n_heads index_skip_topk_offset index_topk_freq index_topk_pattern indexer_rope_interleave
    indexer_types layer_types
"""


def _without_indexer(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What is written is a DeepSeek-V3 with the context in which it is the same model."""
    left_out = {*_INDEXER.split(), "index_topk", "mlp_layer_types"}
    written = {name: value for name, value in {**defaults, **values}.items() if name not in left_out}
    types, context = values.get("mlp_layer_types"), written.get("max_position_embeddings", 2048)
    for name in ("rope_scaling", "rope_parameters"):
        rope = written.get(name) or {}
        if rope.get("rope_type", rope.get("type")) in ("yarn", "llama3"):  # their default is the context
            written[name] = {"original_max_position_embeddings": context, **rope}
    return written | {
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "first_k_dense_replace": types.count("dense") if types else written.get("first_k_dense_replace", 3),
        "max_position_embeddings": min(context, values.get("index_topk") or 2048),
    }


V2 = Family(v2, {**OUTSIDE, **NORMS, **LATENTS, **ROUTER, **mlp(), **SHARED}, balance=None)
V3 = replace(V2, transformer=v3, further_layers=True)
GLM_LITE = replace(V3, transformer=glm_lite)


def _family(eps: float, groups: int, top_groups: int) -> Family:
    return replace(
        V3,
        transformer=partial(indexed, eps=eps, groups=groups, top_groups=top_groups),
        further=r"model\.layers\.\d+\.self_attn\.indexer\.",
        written=partial(_without_indexer, {"rms_norm_eps": eps, "n_group": groups, "topk_group": top_groups}),
    )


V3_2, GLM_5 = _family(1e-6, 8, 4), _family(1e-5, 1, 1)
