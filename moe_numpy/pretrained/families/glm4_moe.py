"""GLM-4.5 (Zhipu 2025): DeepSeek-V3's router, ordinary attention of which half of each head rotates.

Solar Open (Upstage 2025) is the same with experts in every layer and heads that rotate whole.
"""

from dataclasses import replace
from typing import Any

from ...models import ModelConfig, TransformerConfig
from ...models.transformer_config import Dense, Norm
from ...moe.gates import Renormalize, Scale
from ...nn import AttentionParts
from ...nn.attention import QueryKeyNorm
from ..fields import Fields
from .decoder import LLAMA, QUERY_KEY_NORMS, ROUTER, alternating, common_settings, heads, mlp, read_rotary, read_sizes
from .deepseek import SHARED, read_experts, sigmoid_router
from .family import Family


def transformer(fields: Fields, *, bias: bool = False) -> TransformerConfig:
    """The model that the settings describe, its attention with or without biases by default."""
    sizes = read_sizes(fields, eps=1e-5, num_kv_heads=8)
    parts = AttentionParts(
        read_rotary(fields, sizes.d_head, sizes.context, base=10000.0, share=0.5),
        bias=fields.flag("attention_bias", default=bias),
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


def solar(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-5, num_kv_heads=8, d_head=128)
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=1e6)
    parts = AttentionParts(rotary, bias=fields.flag("attention_bias"))
    router = sigmoid_router(fields, top_k=8, groups=1, top_groups=1, normalize=True, scale=1.0)
    fields.expect("first_k_dense_replace", 0, default=0)
    fields.expect("use_qk_norm", False, default=False)
    fields.skip("num_nextn_predict_layers", "intermediate_size")
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(
            heads(sizes, parts), lambda i: True, read_experts(fields, router, shared=1), None, sizes.num_layers
        ),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """For a configuration of ours, which must have DeepSeek-V3's router, and dense layers only before sparse ones."""
    recipe = config.layer_recipe
    selection = None if recipe.router is None else recipe.router.selection
    dense = [i for i in range(config.num_layers) if not config.is_sparse(i)]
    gates = () if recipe.router is None else recipe.router.gates
    return common_settings(config, "Glm4MoeForCausalLM") | {
        "model_type": "glm4_moe",
        "head_dim": config.d_model // config.num_heads,
        "partial_rotary_factor": 1.0,
        "use_qk_norm": False,
        "attention_bias": False,
        "n_routed_experts": max(config.num_experts, 1),
        "num_experts_per_tok": max(1, int(config.experts_per_token)),
        "moe_intermediate_size": config.d_ff,
        "n_shared_experts": recipe.shared_experts,
        "intermediate_size": (config.dense_d_ff or config.active_width) if dense else config.d_ff,
        "first_k_dense_replace": len(dense),
        "n_group": getattr(selection, "num_groups", 1),
        "topk_group": getattr(selection, "top_groups", 1),
        "norm_topk_prob": any(gate.function is Renormalize for gate in gates),
        "routed_scaling_factor": next((g.settings["factor"] for g in gates if isinstance(g, Scale)), 1.0),
    }


FAMILY = Family(
    transformer,
    {**LLAMA, **QUERY_KEY_NORMS, **ROUTER, **mlp(), **SHARED},
    settings_of=settings_of,
    balance=None,
    further_layers=True,
)
SOLAR = replace(FAMILY, transformer=solar, settings_of=None)
