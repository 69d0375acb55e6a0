"""The families of published models, one a file, by the ``model_type`` of their ``config.json``."""

from collections.abc import Mapping

from . import (
    dbrx,
    deepseek,
    dots1,
    ernie4_5_moe,
    exaone_moe,
    glm4_moe,
    gpt_oss,
    granite,
    hunyuan_v1_moe,
    hy_v3,
    llama,
    llama4,
    mellum,
    minimax_m2,
    mixtral,
    olmoe,
    phimoe,
    qwen_moe,
    with_images,
)
from .family import Family
from .missing import MISSING

FAMILIES: Mapping[str, Family] = {
    "dbrx": dbrx.FAMILY,
    "deepseek_v2": deepseek.V2,
    "deepseek_v3": deepseek.V3,
    "deepseek_v32": deepseek.V3_2,
    "dots1": dots1.FAMILY,
    "ernie4_5_moe": ernie4_5_moe.FAMILY,
    "exaone_moe": exaone_moe.FAMILY,
    "flex_olmo": olmoe.FLEX_OLMO,
    "glm4_moe": glm4_moe.FAMILY,
    "glm4_moe_lite": deepseek.GLM_LITE,
    "glm4v_moe": with_images.GLM_4V,
    "glm_moe_dsa": deepseek.GLM_5,
    "gpt_oss": gpt_oss.FAMILY,
    "granitemoe": granite.PLAIN,
    "granitemoe_swa": granite.WITH_WINDOWS,
    "granitemoeshared": granite.SHARED,
    "hunyuan_v1_moe": hunyuan_v1_moe.FAMILY,
    "hy_v3": hy_v3.FAMILY,
    "kimi_k25": with_images.KIMI,
    "kimi_k2": deepseek.V3,
    "llama": llama.FAMILY,
    "llama4": llama4.WITH_IMAGES,
    "llama4_text": llama4.TEXT,
    "mellum": mellum.FAMILY,
    "minimax_m2": minimax_m2.FAMILY,
    "mixtral": mixtral.FAMILY,
    "olmoe": olmoe.OLMOE,
    "phimoe": phimoe.FAMILY,
    "qwen2_moe": qwen_moe.QWEN2,
    "qwen3_moe": qwen_moe.QWEN3,
    "qwen3_vl_moe": with_images.QWEN3_VL,
    "solar_open": glm4_moe.SOLAR,
}

__all__ = ["FAMILIES", "MISSING", "Family"]
