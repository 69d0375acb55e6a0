"""Families with experts that transformers has and that are not opened here, by ``model_type``: what they would need."""

from collections.abc import Mapping

_BY_REASON = {
    "linear attention (a gated delta rule)": """
        bailing_hybrid glm5_next glm5_next_text kimi_linear qwen3_5_moe qwen3_5_moe_text qwen3_next qwen4_exp
        qwen4_exp_text
    """,
    "lightning attention": "minimax",
    "Mamba layers": "granitemoehybrid jamba nemotron_h",
    "short convolutions": "inkling inkling_text inkling2 inkling2_text lfm2_moe",
    "hyper-connections and attention over compressed keys": "deepseek_v4",
    "hyper-connections": "hy_v4",
    "attention to keys that an indexer chooses": """
        axk2 dots3_note dots3_note_text minimax_m3_vl minimax_m3_vl_text mistral_large4 mistral_large4_text
    """,
    "a gate on the output of attention": "afmoe beam laguna muse_spark muse_spark_text step3p5 step3p7",
    "latent attention whose queries grow with the position": "mistral4",
    "values of another width and scale than keys": "mimo_v2_flash",
    "compressed convolutional attention": "zaya",
    "two attentions and a dense network beside the experts of a layer": "longcat_flash",
    "attention and experts side by side in a layer": "cohere2_moe",
    "a dense network beside the experts, with norms before and after each": "gemma4 gemma4_text",
    "generation by diffusion": "diffusion_gemma diffusion_gemma_text",
    "experts of attention": "jetmoe",
    "experts from product keys": "doge",
    "a norm of the experts' answer": "axk1",
    "norms before and after each part": "kolibri1",
    "sinks together with norms of queries and keys, and experts chosen by a sigmoid without a bias": "flint",
    "positions and experts of images": "ernie4_5_vl_moe ernie4_5_vl_moe_text",
    "the layout of its files": """
        aria aria_text deepseek_ocr2 deepseek_ocr2_text glm4v_moe_text qwen3_omni_moe qwen3_omni_moe_text
        qwen3_vl_moe_text unlimited_ocr unlimited_ocr_text
    """,
    "an encoder beside the decoder": "nllb-moe switch_transformers",
    "attention in both directions": "openai_privacy_filter",
}
MISSING: Mapping[str, str] = {name: reason for reason, names in _BY_REASON.items() for name in names.split()}
