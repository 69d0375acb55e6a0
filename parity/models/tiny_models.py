"""Tiny published models: for each family a plain configuration and stress ones, every field set that changes numbers.

Widths are as small as they can be (below 50 000 parameters). The stress configurations together give every field of
config.json that the family's modelling code reads another value than its default.
"""

from collections.abc import Iterator
from typing import Any

import transformers as hf

Settings = dict[str, Any]

BASE: Settings = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
DENSE = {**BASE, "intermediate_size": 40}
EIGHT = {**DENSE, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
LATENT = {
    **EIGHT,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
}
AUX = {"router_aux_loss_coef": 0.2}


def rope(theta: float, kind: str = "default", **parameters: Any) -> dict[str, Settings]:
    """The field ``rope_parameters``."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **parameters}}


def yarn(theta: float = 100.0, **parameters: Any) -> Settings:
    """YaRN whose ramp lies inside the few frequencies of a narrow head: theta is small."""
    given = {"factor": 8.0, "original_max_position_embeddings": 256, "beta_fast": 5.0, "beta_slow": 2.0, **parameters}
    return {"max_position_embeddings": 2048, **rope(theta, "yarn", **given)}


def llama3(theta: float, low: float, high: float) -> dict[str, Settings]:
    """Llama 3.1's scaling by wavelength."""
    bounds = {"low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": 64}
    return rope(theta, "llama3", factor=8.0, **bounds)


def longrope(original: int, short: list[float], long: list[float]) -> dict[str, Settings]:
    """The scaling of Phi-3.5-MoE, with magnitudes of its own for texts below and above the original length."""
    magnitudes = {"short_mscale": 1.24, "long_mscale": 1.4}
    lengths = {"short_factor": short, "long_factor": long, "original_max_position_embeddings": original}
    return rope(10000.0, "longrope", **lengths, **magnitudes)


FAMILIES: dict[str, tuple[type, type, Settings, dict[str, Settings]]] = {
    "llama": (
        hf.LlamaConfig,
        hf.LlamaForCausalLM,
        DENSE,
        {
            "plain": {},
            "biases_llama3": {
                "head_dim": 16,
                "attention_bias": True,
                "mlp_bias": True,
                "tie_word_embeddings": True,
                "rms_norm_eps": 1e-3,
                **llama3(500000.0, 1.0, 4.0),
            },
            "linear": {"num_key_value_heads": 1, **rope(500.0, "linear", factor=4.0)},
            "yarn": {"head_dim": 16, **yarn(attention_factor=1.5)},
        },
    ),
    "mixtral": (
        hf.MixtralConfig,
        hf.MixtralForCausalLM,
        {**BASE, **AUX, "intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2},
        {
            "plain": {},
            "window": {"sliding_window": 8, "head_dim": 16, "num_experts_per_tok": 3, "rms_norm_eps": 1e-3},
            "top1_yarn": {
                "num_experts_per_tok": 1,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "tie_word_embeddings": True,
                **yarn(),
            },
        },
    ),
    "olmoe": (
        hf.OlmoeConfig,
        hf.OlmoeForCausalLM,
        {**BASE, **AUX, "intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 4},
        {
            "plain": {},
            "clipped": {
                "clip_qkv": 0.8,
                "norm_topk_prob": True,
                "attention_bias": True,
                "num_key_value_heads": 2,
                "num_experts_per_tok": 3,
                "rms_norm_eps": 1e-3,
            },
            "top1_linear": {
                "num_experts_per_tok": 1,
                "tie_word_embeddings": True,
                **rope(500.0, "linear", factor=4.0),
            },
        },
    ),
    "qwen2_moe": (
        hf.Qwen2MoeConfig,
        hf.Qwen2MoeForCausalLM,
        {**EIGHT, **AUX, "num_experts": 8, "shared_expert_intermediate_size": 20},
        {
            "plain": {},
            "mixed_layers": {
                "num_hidden_layers": 5,
                "decoder_sparse_step": 2,
                "mlp_only_layers": [3],
                "norm_topk_prob": True,
                "qkv_bias": False,
                "use_sliding_window": True,
                "sliding_window": 8,
                "max_window_layers": 3,
                "rms_norm_eps": 1e-3,
            },
            "top1_llama3": {"num_experts_per_tok": 1, "tie_word_embeddings": True, **llama3(500.0, 1.0, 4.0)},
        },
    ),
    "qwen3_moe": (
        hf.Qwen3MoeConfig,
        hf.Qwen3MoeForCausalLM,
        {**EIGHT, **AUX, "num_experts": 8, "head_dim": 16},
        {
            "plain": {"norm_topk_prob": True},
            "mixed_layers": {
                "num_hidden_layers": 4,
                "decoder_sparse_step": 2,
                "mlp_only_layers": [1],
                "attention_bias": True,
                "use_sliding_window": True,
                "sliding_window": 8,
                "rms_norm_eps": 1e-3,
            },
            "top3_yarn": {"num_experts_per_tok": 3, "tie_word_embeddings": True, "norm_topk_prob": True, **yarn()},
            "top1": {"num_experts_per_tok": 1, "head_dim": 8, **rope(1e6)},
        },
    ),
    "deepseek_v2": (
        hf.DeepseekV2Config,
        hf.DeepseekV2ForCausalLM,
        {**LATENT, "n_shared_experts": 2},
        {
            "plain": {"q_lora_rank": None, "first_k_dense_replace": 1},
            "groups_yarn": {
                "topk_method": "group_limited_greedy",
                "n_group": 4,
                "topk_group": 2,
                "num_experts_per_tok": 3,
                "routed_scaling_factor": 3.0,
                "rms_norm_eps": 1e-3,
                **yarn(mscale=0.707, mscale_all_dim=1.2),
            },
            "biases_top1": {
                "first_k_dense_replace": 2,
                "attention_bias": True,
                "mlp_bias": True,
                "num_experts_per_tok": 1,
                "n_shared_experts": 1,
                "tie_word_embeddings": True,
            },
        },
    ),
    "deepseek_v3": (
        hf.DeepseekV3Config,
        hf.DeepseekV3ForCausalLM,
        {**LATENT, "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1},
        {
            "plain": {},
            "negative_bias_yarn": {
                "q_lora_rank": None,
                "first_k_dense_replace": 0,
                "num_experts_per_tok": 3,
                "norm_topk_prob": False,
                "routed_scaling_factor": 1.7,
                "rms_norm_eps": 1e-3,
                **yarn(mscale=1.0, mscale_all_dim=0.7),
            },
            "half_pairs": {
                "rope_interleave": False,
                "attention_bias": True,
                "n_shared_experts": 2,
                "num_experts_per_tok": 4,
                "n_group": 2,
                "topk_group": 1,
                "first_k_dense_replace": 2,
            },
            "one_group_top1": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 1, "tie_word_embeddings": True},
        },
    ),
    "gpt_oss": (
        hf.GptOssConfig,
        hf.GptOssForCausalLM,
        {
            **BASE,
            **AUX,
            "head_dim": 16,
            "intermediate_size": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
        },
        {
            "plain": yarn(150000.0, factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False),
            "limits": {
                "num_hidden_layers": 3,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
                "sliding_window": 5,
                "swiglu_alpha": 1.3,
                "swiglu_limit": 1.0,
                "num_experts_per_tok": 3,
                "rms_norm_eps": 1e-3,
                "tie_word_embeddings": True,
                **yarn(truncate=False),
            },
            "top1": {"num_experts_per_tok": 1, "attention_bias": False, "head_dim": 8, **rope(10000.0)},
        },
    ),
    "llama4_text": (
        hf.Llama4TextConfig,
        hf.Llama4ForCausalLM,
        {
            **BASE,
            "num_hidden_layers": 4,
            "head_dim": 16,
            "intermediate_size": 16,
            "intermediate_size_mlp": 40,
            "num_local_experts": 4,
            "attention_chunk_size": 16,
        },
        {
            "plain": {"interleave_moe_layer_step": 2, "floor_scale": 8},
            "lists": {
                "num_hidden_layers": 3,
                "no_rope_layers": [1, 0, 1],
                "moe_layers": [0, 2],
                "use_qk_norm": False,
                "attn_temperature_tuning": False,
                "floor_scale": 4,
                "attention_bias": True,
                "num_experts_per_tok": 2,
                "tie_word_embeddings": True,
                "rms_norm_eps": 1e-3,
                **llama3(500.0, 1.0, 4.0),
            },
            "ragged_chunks": {
                "no_rope_layer_interval": 2,
                "attention_chunk_size": 7,
                "floor_scale": 4,
                "attn_scale": 0.5,
                **llama3(500.0, 1.0, 1.0),
            },
        },
    ),
    "phimoe": (
        hf.PhimoeConfig,
        hf.PhimoeForCausalLM,
        {**BASE, **AUX, "intermediate_size": 24, "num_local_experts": 4},
        {
            "plain": {},
            "biases_window": {
                "attention_bias": True,
                "lm_head_bias": True,
                "sliding_window": 8,
                "router_jitter_noise": 0.2,
                "rms_norm_eps": 1e-3,
                **longrope(64, [1.0, 1.1, 1.3, 2.0], [1.0, 2.0, 4.0, 8.0]),
            },
            "above_original_length": {
                "router_jitter_noise": 0.4,
                "tie_word_embeddings": True,
                **longrope(16, [1.0, 1.5, 2.0, 4.0], [1.0, 1.5, 2.0, 4.0]),
            },
        },
    ),
    "granitemoe": (
        hf.GraniteMoeConfig,
        hf.GraniteMoeForCausalLM,
        {**BASE, **AUX, "intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2},
        {
            "plain": {"attention_multiplier": 0.3535},
            "multipliers": {
                "embedding_multiplier": 12.0,
                "attention_multiplier": 0.2,
                "residual_multiplier": 0.22,
                "logits_scaling": 1.6,
                "attention_bias": True,
                "num_experts_per_tok": 3,
                "tie_word_embeddings": True,
                "rms_norm_eps": 1e-3,
            },
            "top1_yarn": {
                "num_experts_per_tok": 1,
                "num_key_value_heads": 1,
                "attention_multiplier": 0.3,
                "logits_scaling": 0.7,
                **yarn(),
            },
        },
    ),
    "granitemoeshared": (
        hf.GraniteMoeSharedConfig,
        hf.GraniteMoeSharedForCausalLM,
        {
            **BASE,
            **AUX,
            "intermediate_size": 24,
            "shared_intermediate_size": 20,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        {
            "plain": {"attention_multiplier": 0.3535},
            "multipliers": {
                "embedding_multiplier": 12.0,
                "attention_multiplier": 0.2,
                "residual_multiplier": 0.22,
                "logits_scaling": 1.6,
                "attention_bias": True,
                "num_experts_per_tok": 1,
                "tie_word_embeddings": True,
                "rms_norm_eps": 1e-3,
                **rope(1e6),
            },
            "without_shared": {"shared_intermediate_size": 0, "num_experts_per_tok": 3, "attention_multiplier": 0.5},
        },
    ),
    "dbrx": (
        hf.DbrxConfig,
        hf.DbrxForCausalLM,
        {
            "vocab_size": 64,
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 128,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": None,
        },
        {
            "plain": {
                "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
                "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2, "moe_loss_weight": 0.2},
            },
            "clipped": {
                "attn_config": {"kv_n_heads": 1, "clip_qkv": 0.6, "rope_theta": 500000.0},
                "ffn_config": {
                    "ffn_hidden_size": 24,
                    "moe_num_experts": 4,
                    "moe_top_k": 3,
                    "moe_normalize_expert_weights": 2.0,
                    "moe_loss_weight": 0.2,
                },
                **rope(500000.0),
            },
            "top1_unnormalised": {
                "attn_config": {"kv_n_heads": 4, "clip_qkv": 2.0, "rope_theta": 10000.0},
                "ffn_config": {
                    "ffn_hidden_size": 24,
                    "moe_num_experts": 4,
                    "moe_top_k": 1,
                    "moe_normalize_expert_weights": None,
                    "moe_loss_weight": 0.2,
                },
            },
        },
    ),
    "glm4_moe": (
        hf.Glm4MoeConfig,
        hf.Glm4MoeForCausalLM,
        {**EIGHT, "head_dim": 16, "n_routed_experts": 8, "n_shared_experts": 1},
        {
            "plain": {},
            "groups": {
                "use_qk_norm": True,
                "attention_bias": True,
                "n_group": 4,
                "topk_group": 2,
                "num_experts_per_tok": 3,
                "first_k_dense_replace": 0,
                "norm_topk_prob": False,
                "routed_scaling_factor": 2.5,
                "n_shared_experts": 2,
                "rms_norm_eps": 1e-3,
                **rope(1e6, partial_rotary_factor=0.25),
            },
            "dense_first": {
                "num_hidden_layers": 3,
                "first_k_dense_replace": 2,
                "num_experts_per_tok": 1,
                "tie_word_embeddings": True,
                **rope(500.0, partial_rotary_factor=1.0),
            },
        },
    ),
    "ernie4_5_moe": (
        hf.Ernie4_5_MoeConfig,
        hf.Ernie4_5_MoeForCausalLM,
        {**DENSE, **AUX, "moe_intermediate_size": 16, "moe_num_experts": 8, "moe_k": 2, "moe_num_shared_experts": 1},
        {
            "plain": {},
            "some_layers": {
                "num_hidden_layers": 6,
                "moe_layer_start_index": 2,
                "moe_layer_end_index": 4,
                "moe_layer_interval": 2,
                "moe_num_shared_experts": 0,
                "use_bias": True,
                "moe_k": 3,
                "moe_norm_min": 0.5,
                "tie_word_embeddings": False,
                "rms_norm_eps": 1e-3,
            },
            "top1": {"moe_k": 1, "moe_layer_start_index": 0, "moe_num_shared_experts": 2, **rope(500.0)},
        },
    ),
    "hunyuan_v1_moe": (
        hf.HunYuanMoEV1Config,
        hf.HunYuanMoEV1ForCausalLM,
        {**BASE, "head_dim": 16, "intermediate_size": 24, "num_experts": 4, "moe_topk": 2},
        {
            "plain": {},
            "alpha": {
                "moe_topk": [1, 3],
                "attention_bias": True,
                "tie_word_embeddings": True,
                "rms_norm_eps": 1e-3,
                **rope(500.0, "dynamic", factor=1.0, alpha=1000.0),
            },
            "top1": {"moe_topk": 1, "head_dim": 8, "num_key_value_heads": 4, **rope(500.0)},
        },
    ),
    "minimax_m2": (
        hf.MiniMaxM2Config,
        hf.MiniMaxM2ForCausalLM,
        {
            **BASE,
            **AUX,
            "head_dim": 16,
            "intermediate_size": 24,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        {
            "plain": {},
            "partial_rotation": {
                "num_experts_per_tok": 3,
                "rms_norm_eps": 1e-3,
                **rope(500.0, partial_rotary_factor=0.5),
            },
            "top1": {"num_experts_per_tok": 1, "head_dim": 8, "num_key_value_heads": 1, "tie_word_embeddings": True},
        },
    ),
    "dots1": (
        hf.Dots1Config,
        hf.Dots1ForCausalLM,
        {**EIGHT, "head_dim": 16, "n_routed_experts": 8, "n_shared_experts": 1, "sliding_window": None},
        {
            "plain": {"first_k_dense_replace": 1, "norm_topk_prob": True},
            "groups_window": {
                "num_hidden_layers": 3,
                "sliding_window": 8,
                "max_window_layers": 1,
                "attention_bias": True,
                "n_group": 4,
                "topk_group": 2,
                "num_experts_per_tok": 3,
                "norm_topk_prob": True,
                "routed_scaling_factor": 2.5,
                "n_shared_experts": 2,
                "rms_norm_eps": 1e-3,
            },
            "top1": {"num_experts_per_tok": 1, "head_dim": 8, "tie_word_embeddings": True, **yarn()},
        },
    ),
    "flex_olmo": (
        hf.FlexOlmoConfig,
        hf.FlexOlmoForCausalLM,
        {**BASE, **AUX, "intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 4},
        {
            "plain": {},
            "biases_yarn": {
                "attention_bias": True,
                "norm_topk_prob": True,
                "num_experts_per_tok": 3,
                "num_key_value_heads": 2,
                "rms_norm_eps": 1e-3,
                **yarn(),
            },
            "top1": {"num_experts_per_tok": 1, "tie_word_embeddings": True, **rope(10000.0)},
        },
    ),
    "glm4_moe_lite": (
        hf.Glm4MoeLiteConfig,
        hf.Glm4MoeLiteForCausalLM,
        {**LATENT, "n_shared_experts": 1},
        {
            "mixed_layers_yarn": {
                "mlp_layer_types": ["sparse", "dense", "sparse"],
                "rope_interleave": False,
                "attention_bias": True,
                "n_group": 4,
                "topk_group": 2,
                "num_experts_per_tok": 3,
                "routed_scaling_factor": 1.3,
                **yarn(mscale=1.0, mscale_all_dim=0.7),
            },
        },
    ),
    "solar_open": (
        hf.SolarOpenConfig,
        hf.SolarOpenForCausalLM,
        {**BASE, "moe_intermediate_size": 16, "head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 2},
        {
            "groups_dynamic": {
                "attention_bias": True,
                "n_group": 4,
                "topk_group": 2,
                "num_experts_per_tok": 3,
                "norm_topk_prob": False,
                "routed_scaling_factor": 2.5,
                "n_shared_experts": 2,
                **rope(500.0, "dynamic", factor=4.0),
            },
        },
    ),
    "exaone_moe": (
        hf.ExaoneMoeConfig,
        hf.ExaoneMoeForCausalLM,
        {**EIGHT, "num_hidden_layers": 3, "head_dim": 16, "num_experts": 8},
        {
            "windows": {
                "sliding_window": 8,
                "sliding_window_pattern": 2,
                "first_k_dense_replace": 2,
                "num_shared_experts": 2,
                "n_group": 4,
                "topk_group": 2,
                "num_experts_per_tok": 3,
                "routed_scaling_factor": 1.7,
                "rms_norm_eps": 1e-3,
                **rope(500.0),
            },
        },
    ),
    "hy_v3": (
        hf.HYV3Config,
        hf.HYV3ForCausalLM,
        {**EIGHT, "num_hidden_layers": 3, "head_dim": 16, "num_experts": 8, "num_shared_experts": 1},
        {
            "biases": {
                "attention_bias": True,
                "mlp_bias": True,
                "mlp_layer_types": ["sparse", "dense", "sparse"],
                "num_experts_per_tok": 3,
                "num_shared_experts": 2,
                "router_scaling_factor": 1.7,
                "rms_norm_eps": 1e-3,
                **rope(500.0),
            },
        },
    ),
    "mellum": (
        hf.MellumConfig,
        hf.MellumForCausalLM,
        {**EIGHT, **AUX, "num_hidden_layers": 3, "head_dim": 16, "num_experts": 8},
        {
            "two_rotations": {
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                "mlp_layer_types": ["sparse", "sparse", "dense"],
                "sliding_window": 8,
                "attention_bias": True,
                "norm_topk_prob": False,
                "num_experts_per_tok": 3,
                "rms_norm_eps": 1e-3,
                "rope_parameters": {
                    "full_attention": yarn()["rope_parameters"],
                    "sliding_attention": rope(500.0)["rope_parameters"],
                },
            },
        },
    ),
    "granitemoe_swa": (
        hf.GraniteMoeSWAConfig,
        hf.GraniteMoeSWAForCausalLM,
        {
            **BASE,
            **AUX,
            "num_hidden_layers": 3,
            "intermediate_size": 24,
            "shared_intermediate_size": 20,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        {
            "bases": {
                "sliding_window": 8,
                "layer_rope_theta": [0, 500.0, 10000.0],
                "attention_multiplier": 0.2,
                "residual_multiplier": 0.22,
                "embedding_multiplier": 12.0,
                "logits_scaling": 1.6,
            },
        },
    ),
}

# Configurations whose weights are values of a number format, by format; the widths fit its groups.
STORED: dict[str, tuple[str, Settings]] = {
    "mxfp4": ("gpt_oss", {"hidden_size": 64, "intermediate_size": 32, **yarn(150000.0, truncate=False)}),
    "fp8": ("deepseek_v3", {"num_hidden_layers": 2, "rms_norm_eps": 1e-3}),
}


def cases() -> Iterator[tuple[str, str]]:
    """Every family with every one of its configurations."""
    for family, (*_, configurations) in FAMILIES.items():
        yield from ((family, name) for name in configurations)


def configuration(family: str, name: str) -> Any:
    """The configuration object, with the plain attention that every family has."""
    config_type, model_type, shared, configurations = FAMILIES[family]
    settings = STORED[name][1] if name in STORED else configurations[name]
    config = config_type(**{**shared, **settings})
    config._attn_implementation = "eager"
    config.architectures = [model_type.__name__]
    return config
