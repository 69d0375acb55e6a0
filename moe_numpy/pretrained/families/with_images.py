"""The language models of Qwen3-VL-MoE (2025), GLM-4.5V (2025) and Kimi K2.5 (2026): Qwen3, GLM-4.5 and DeepSeek-V3."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from ..pieces import Together
from . import deepseek, glm4_moe, qwen_moe
from .text_config import language_model, settings_alone

_TOKENS = (
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "image_start_token_id",
    "image_end_token_id",
    "video_start_token_id",
    "video_end_token_id",
)


def _below(path: str, names: Mapping[str, str]) -> dict[str, str]:
    """The names outside the layers when the model, but not its output matrix, is below ``path``."""
    return {**names, "embedding": f"{path}.embed_tokens", "norm": f"{path}.norm"}


QWEN3_VL = replace(
    qwen_moe.QWEN3,
    transformer=language_model(
        partial(qwen_moe.qwen3, num_kv_heads=16, top_k=4, base=500000.0, normalize=True), *_TOKENS, tied=False
    ),
    names=_below("model.language_model", qwen_moe.QWEN3.names),
    experts=Together({"gate_up": "mlp.experts.gate_up_proj", "down": "mlp.experts.down_proj"}),
    layer="model.language_model.layers.{n}.",
    further=r"model\.visual\.",
    written=settings_alone(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        tied=False,
        num_key_value_heads=16,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        base=500000.0,
    ),
    balance="text_config.router_aux_loss_coef",
)
GLM_4V = replace(
    glm4_moe.FAMILY,
    transformer=language_model(partial(glm4_moe.transformer, bias=True), *_TOKENS),
    names=_below("model.language_model", glm4_moe.FAMILY.names),
    layer="model.language_model.layers.{n}.",
    further=r"model\.visual\.",
    written=settings_alone("glm4_moe", "Glm4MoeForCausalLM", attention_bias=True),
    settings_of=None,
)
KIMI = replace(
    deepseek.V3,
    transformer=language_model(deepseek.v3, *_TOKENS, "projection_hidden_size", "projection_layer_norm_eps", tied=True),
    prefix="language_model.",
    further=r"(model\.)?(vision_tower|mm_projector)\.",
    written=settings_alone("deepseek_v3", "DeepseekV3ForCausalLM", tied=True),
)
