"""Models of which a part is left out: an encoder of images, or an indexer that chooses every key of a short text.

What is written is the language model alone, of a family that has nothing else.
"""

import json

import numpy as np
import pytest
import transformers as hf
from models.reference import draw, logits_of
from models.tiny_models import EIGHT, LATENT, yarn
from safetensors.torch import load_file, save_file

from moe_numpy import pretrained
from moe_numpy.models import Transformer

WAYS = {"attn_implementation": "eager", "experts_implementation": "eager", "dtype": "float32"}
VISION = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 32, "patch_size": 2}
KIMI = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
GROUPS = {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 3, "n_shared_experts": 1}
INDEXER = {"index_topk": 48, "index_head_dim": 16, "index_n_heads": 2}


def rotation(sections, **more):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": sections, **more}}


def with_images(text, vision, **more):
    return {"text_config": text, "vision_config": vision, **more}


MODELS = {
    "qwen3_vl_moe": (
        "Qwen3VLMoe",
        with_images(
            {**EIGHT, "head_dim": 16, "num_experts": 8, **rotation([4, 2, 2], mrope_interleaved=True)},
            {**VISION, "deepstack_visual_indexes": [0]},
        ),
        "Qwen3MoeForCausalLM",
    ),
    "glm4v_moe": (
        "Glm4vMoe",
        with_images(
            {**EIGHT, **GROUPS, "head_dim": 16, "n_routed_experts": 8, **rotation([2, 1, 1])},
            {**VISION, "image_size": 4},
        ),
        "Glm4MoeForCausalLM",
    ),
    "kimi_k25": (
        "Kimi_K25",
        with_images(
            {**LATENT, **GROUPS, "model_type": "deepseek_v3", "first_k_dense_replace": 1, **yarn()},
            {**KIMI, "patch_size": 2, "pos_emb_height": 2, "pos_emb_width": 2, "pos_emb_time": 1},
            projection_hidden_size=8,
            tie_word_embeddings=False,
        ),
        "DeepseekV3ForCausalLM",
    ),
    "deepseek_v32": (
        "DeepseekV32",
        {**LATENT, **GROUPS, **INDEXER, "first_k_dense_replace": 1, **yarn(mscale=1.0, mscale_all_dim=0.7)},
        "DeepseekV3ForCausalLM",
    ),
    "glm_moe_dsa": (
        "GlmMoeDsa",
        {**LATENT, **INDEXER, "mlp_layer_types": ["dense", "dense", "sparse"], "indexer_types": ["full", "shared"] * 2},
        "DeepseekV3ForCausalLM",
    ),
}


def save_as_published(family, model, folder):
    """transformers 5.23 saves Kimi's layers as blocks, and Qwen's experts as it has them in memory."""
    model.save_pretrained(folder)
    if family == "kimi_k25":
        _changed(folder, lambda name, tensor: (name.replace(".model.blocks.", ".model.layers."), tensor))
    if family == "qwen3_vl_moe":
        _changed(folder, lambda name, tensor: (name, tensor.mT.contiguous() if ".experts." in name else tensor))


def _changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(dict(change(*item) for item in tensors.items()), folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("family", MODELS)
def test_logits_and_what_is_written(family, tmp_path, check):
    name, settings, alone = MODELS[family]
    image = "text_config" in settings
    config = getattr(hf, f"{name}Config")(**settings)
    config._attn_implementation = "eager"
    model = getattr(hf, name + ("ForConditionalGeneration" if image else "ForCausalLM"))(config).eval()
    text = getattr(config, "text_config", config)
    language = [model.model.language_model, model.lm_head] if image else [model]
    for part in language:
        part.config = text
        draw(part, np.random.default_rng(0))
    model.set_experts_implementation("eager")
    ids = np.random.default_rng(1).integers(2, 64, (2, 48))
    theirs = logits_of(model, ids)
    save_as_published(family, model, tmp_path / "published")

    ours = Transformer.from_pretrained(tmp_path / "published")
    check(family, "float32", {"logits": np.abs(ours(ids).logits.data - theirs).max()}, 1e-4)
    assert (ours.context == 48) == ("index_topk" in settings)
    pretrained.save_pretrained(ours, tmp_path / "written")
    written = json.loads((tmp_path / "written" / "config.json").read_text())
    assert written["architectures"] == [alone]
    again, problems = getattr(hf, alone).from_pretrained(tmp_path / "written", output_loading_info=True, **WAYS)
    assert not any(problems.values()), problems
    check(family, "float32", {"logits": np.abs(logits_of(again.eval(), ids) - theirs).max()}, 1e-5)
