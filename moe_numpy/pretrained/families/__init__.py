"""The families of published models, one a file, by the ``model_type`` of their ``config.json``."""

from collections.abc import Mapping

from . import (
    dbrx,
    deepseek,
    dots1,
    ernie4_5_moe,
    glm4_moe,
    gpt_oss,
    granite,
    hunyuan_v1_moe,
    llama,
    llama4,
    minimax_m2,
    mixtral,
    olmoe,
    phimoe,
    qwen_moe,
)
from .family import Family

FAMILIES: Mapping[str, Family] = {
    "dbrx": dbrx.FAMILY,
    "deepseek_v2": deepseek.V2,
    "deepseek_v3": deepseek.V3,
    "dots1": dots1.FAMILY,
    "ernie4_5_moe": ernie4_5_moe.FAMILY,
    "flex_olmo": olmoe.FLEX_OLMO,
    "glm4_moe": glm4_moe.FAMILY,
    "gpt_oss": gpt_oss.FAMILY,
    "granitemoe": granite.PLAIN,
    "granitemoeshared": granite.SHARED,
    "hunyuan_v1_moe": hunyuan_v1_moe.FAMILY,
    "kimi_k2": deepseek.V3,
    "llama": llama.FAMILY,
    "llama4": llama4.WITH_IMAGES,
    "llama4_text": llama4.TEXT,
    "minimax_m2": minimax_m2.FAMILY,
    "mixtral": mixtral.FAMILY,
    "olmoe": olmoe.OLMOE,
    "phimoe": phimoe.FAMILY,
    "qwen2_moe": qwen_moe.QWEN2,
    "qwen3_moe": qwen_moe.QWEN3,
}

__all__ = ["FAMILIES", "Family"]
