"""The same model as its publisher would have written it, before version 5 of transformers.

A folder that transformers 5 saves has ``rope_parameters`` and ``dtype`` in config.json and one file of float32.
Published folders have ``rope_theta`` with ``rope_scaling``, ``torch_dtype``, fields that only the publisher's own code
read, shards of bfloat16, and sometimes tensors of parts that the model does not have here: layers that predict further
tokens, an image encoder.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Settings = dict[str, Any]
NEW_FIELDS = ("rope_parameters", "dtype", "layer_types", "num_mtp_layers")
PUBLISHED: dict[str, Settings] = {
    "llama": {"mlp_bias": False, "pretraining_tp": 1},
    "qwen3_moe": {"max_window_layers": 2},
    "deepseek_v2": {
        "aux_loss_alpha": 0.001,
        "ep_size": 1,
        "moe_layer_freq": 1,
        "n_group": 1,
        "pretraining_tp": 1,
        "scoring_func": "softmax",
        "seq_aux": True,
        "topk_group": 1,
    },
    "deepseek_v3": {
        "aux_loss_alpha": 0.001,
        "ep_size": 1,
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 1,
        "pretraining_tp": 1,
        "scoring_func": "sigmoid",
        "seq_aux": True,
        "topk_method": "noaux_tc",
    },
    "gpt_oss": {"initial_context_length": 64},
    "phimoe": {"hidden_dropout": 0.0, "input_jitter_noise": 0.01},
    "glm4_moe": {"num_nextn_predict_layers": 1},
    "glm4_moe_lite": {"num_nextn_predict_layers": 1, "partial_rotary_factor": 1.0, "topk_method": "noaux_tc"},
    "exaone_moe": {
        "first_last_k_dense_replace": 2,
        "is_moe_layer": [False, False, True],
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    },
    "ernie4_5_moe": {"moe_capacity": [64, 64, 64], "moe_gate": "topk", "moe_use_aux_free": True},
    "hunyuan_v1_moe": {
        "capacity_factor": 1.0,
        "cla_share_factor": 2,
        "mlp_bias": False,
        "moe_drop_tokens": False,
        "moe_layer_num_skipped": 0,
        "moe_random_routing_dropped_token": False,
        "norm_type": "rms",
        "use_cla": False,
        "use_mixed_mlp_moe": True,
        "use_qk_norm": True,
    },
    "minimax_m2": {
        "mtp_transformer_layers": 1,
        "num_mtp_modules": 3,
        "qk_norm_type": "per_layer",
        "scoring_func": "sigmoid",
        "shared_intermediate_size": 0,
        "use_mtp": True,
        "use_qk_norm": True,
        "use_routing_bias": True,
    },
    "dots1": {"moe_layer_freq": 1, "scoring_func": "noaux_tc", "use_sliding_window": False},
}


def publish(folder: Path, target: Path) -> None:
    """Write the model in ``folder`` to ``target`` as it would have been published."""
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    tensors = {name: _stored(name, tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
    old = old_config(config)
    if old.get("num_nextn_predict_layers"):
        tensors |= _next_token_layer(tensors, old["num_hidden_layers"])
    if old["model_type"] == "llama4_text":
        old, tensors = _with_images(old, tensors)
    (target / "config.json").write_text(json.dumps(old, indent=2) + "\n")
    _save_shards(tensors, target)


def shorten(folder: Path, target: Path, defaults: Settings) -> None:
    """The model in ``folder`` with a config.json that leaves out every field with its default value."""
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    kept = {key: v for key, v in config.items() if key == "model_type" or key not in defaults or v != defaults[key]}
    (target / "config.json").write_text(json.dumps(kept, indent=2) + "\n")
    shutil.copy(folder / "model.safetensors", target)


def old_config(config: Settings) -> Settings:
    """The fields of config.json as version 4 wrote them, with those of the publisher."""
    family = config["model_type"]
    old = {key: value for key, value in config.items() if key not in NEW_FIELDS}
    old |= {"torch_dtype": "bfloat16", "transformers_version": "4.46.1"}
    for key, value in PUBLISHED.get(family, {}).items():
        if old.get(key) is None:
            old[key] = value
    rope = dict(config["rope_parameters"])
    if "rope_theta" not in rope:  # one for each kind of layer, which no older version had
        return {**config, "torch_dtype": "bfloat16"}
    theta, partial = rope.pop("rope_theta"), rope.pop("partial_rotary_factor", None)
    kind = rope.pop("rope_type")
    rope.pop("type", None)
    scaling = {"rope_type" if kind == "llama3" or family == "gpt_oss" else "type": kind, **rope}
    old |= {"rope_theta": theta, "rope_scaling": None if kind == "default" else scaling}
    return _FAMILY.get(family, lambda old, config, partial: old)(old, config, partial)


def _dbrx(old: Settings, config: Settings, partial: float | None) -> Settings:
    """Everything about attention and experts is in parts of its own."""
    del old["rope_theta"], old["rope_scaling"]
    for part, fields in (
        ("attn_config", ("clip_qkv", "kv_n_heads", "rope_theta")),
        (
            "ffn_config",
            (
                "ffn_hidden_size",
                "moe_jitter_eps",
                "moe_loss_weight",
                "moe_num_experts",
                "moe_top_k",
                "moe_normalize_expert_weights",
            ),
        ),
    ):
        old[part] = {key: config[part][key] for key in fields} | {"model_type": ""}
    return old


def _glm(old: Settings, config: Settings, partial: float | None) -> Settings:
    return {**old, "partial_rotary_factor": partial}


def _gpt_oss(old: Settings, config: Settings, partial: float | None) -> Settings:
    """Without ``rope_scaling`` it would have YaRN: plain rotation is written out."""
    old["rope_scaling"] = old["rope_scaling"] or {"rope_type": "default"}
    if old["swiglu_alpha"] == 1.702:
        del old["swiglu_alpha"]  # a constant before version 5
    return {**old, "layer_types": config["layer_types"], "experts_per_token": config["num_experts_per_tok"]}


def _hunyuan(old: Settings, config: Settings, partial: float | None) -> Settings:
    """Widths and numbers of experts are lists with one entry a layer."""
    layers = config["num_hidden_layers"]
    if isinstance(old["moe_topk"], int):
        old["moe_topk"] = [old["moe_topk"]] * layers
    old |= {"moe_intermediate_size": [old["intermediate_size"]] * layers, "num_shared_expert": [1] * layers}
    if old["rope_scaling"]:
        old["rope_scaling"] |= {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
    return old | {"attention_head_dim": config["head_dim"]}


def _minimax(old: Settings, config: Settings, partial: float | None) -> Settings:
    rotated = round(config["head_dim"] * (1.0 if partial is None else partial))
    return {**old, "rotary_dim": rotated, "attn_type_list": [1] * config["num_hidden_layers"]}


def _qwen2(old: Settings, config: Settings, partial: float | None) -> Settings:
    """A window is written even where none is used."""
    return old if old["use_sliding_window"] else {**old, "sliding_window": 32}


_FAMILY: dict[str, Any] = {
    "dbrx": _dbrx,
    "glm4_moe": _glm,
    "gpt_oss": _gpt_oss,
    "hunyuan_v1_moe": _hunyuan,
    "minimax_m2": _minimax,
    "qwen2_moe": _qwen2,
    "qwen3_moe": _qwen2,
}


def _stored(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """bfloat16, except for correction biases, which are published in float32."""
    return tensor if "correction_bias" in name else tensor.bfloat16()


def _next_token_layer(tensors: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """A layer after the last that predicts the token after next; not part of the model here."""
    last, extra = f"model.layers.{layers - 1}.", f"model.layers.{layers}."
    width = tensors["model.norm.weight"].shape[0]
    embedding = tensors["model.embed_tokens.weight"]
    vector, joined = torch.ones(width, dtype=torch.bfloat16), torch.ones((width, 2 * width), dtype=torch.bfloat16)
    return {
        **{extra + name.removeprefix(last): t.clone() for name, t in tensors.items() if name.startswith(last)},
        extra + "enorm.weight": vector,
        extra + "hnorm.weight": vector.clone(),
        extra + "eh_proj.weight": joined,
        extra + "embed_tokens.weight": embedding.clone(),
        extra + "shared_head.norm.weight": vector.clone(),
        extra + "shared_head.head.weight": embedding.clone(),
    }


def _with_images(text: Settings, tensors: dict[str, torch.Tensor]) -> tuple[Settings, dict[str, torch.Tensor]]:
    """Llama 4 as published: text and images, the text model below ``language_model.``."""
    config = {
        "architectures": ["Llama4ForConditionalGeneration"],
        "boi_token_index": 60,
        "eoi_token_index": 61,
        "image_token_index": 62,
        "model_type": "llama4",
        "text_config": {key: value for key, value in text.items() if key != "architectures"},
        "tie_word_embeddings": text["tie_word_embeddings"],
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0.dev0",
        "vision_config": {"hidden_size": 8, "model_type": "llama4_vision_model", "num_hidden_layers": 1},
    }
    images = {
        "multi_modal_projector.linear_1.weight": torch.ones((32, 8), dtype=torch.bfloat16),
        "vision_model.class_embedding": torch.ones(8, dtype=torch.bfloat16),
        "vision_model.model.layers.0.self_attn.q_proj.weight": torch.ones((8, 8), dtype=torch.bfloat16),
    }
    return config, {**{"language_model." + name: tensor for name, tensor in tensors.items()}, **images}


def _save_shards(tensors: dict[str, torch.Tensor], folder: Path, shards: int = 3) -> None:
    """The tensors in several files, with an index."""
    names = sorted(tensors)
    size = sum(tensor.nbytes for tensor in tensors.values())
    place = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number::shards]
        save_file({name: tensors[name].contiguous() for name in part}, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(place.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
