"""Published models with random weights, made on the spot: their speed is that of the real ones."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from moe_numpy.files import read_json, write_json_atomically
from moe_numpy.models import Transformer
from moe_numpy.nn.module import Unfilled
from moe_numpy.pretrained import PublishedConfig, write_tensor_files
from moe_numpy.pretrained.config import FILE

_COMMON = {
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "attention_bias": False,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "qwen3-moe-701m": _COMMON | {
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 32000, "hidden_size": 1024,
        "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64,
        "intermediate_size": 2048, "moe_intermediate_size": 512, "num_experts": 32, "num_experts_per_tok": 4,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "rope_theta": 1e6,
    },
    "olmoe-1b-7b": _COMMON | {
        "model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "vocab_size": 50304, "hidden_size": 2048,
        "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 1024,
        "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False, "clip_qkv": None, "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
    },
}  # fmt: skip


def settings_of(model: str) -> dict[str, Any]:
    """Those of a name in MODELS, or of a ``config.json``.

    Raises:
        ValueError: it is neither, or is damaged.
        OSError: the file cannot be read.
    """
    if model in MODELS:
        return MODELS[model]
    if not model.endswith(".json"):
        raise ValueError(f"model must be one of {', '.join(MODELS)}, or the config.json of another, got {model!r}")
    settings: dict[str, Any] = read_json(Path(model), dict[str, Any])
    return settings


def write_random_model(folder: Path, settings: Mapping[str, Any], console: Console | None = None) -> None:
    """Write a model in bfloat16: matrices N(0, 1 / width of the input), embeddings N(0, 1), norms 1, biases 0.

    So each token's own embedding has a say in which experts are chosen. Memory holds one tensor at a time.

    Raises:
        PretrainedError: a setting is not what the family has.
        OSError: the disk failed or is full; nothing half-written stays behind.
    """
    config = PublishedConfig(settings)
    write_tensor_files(folder, _drawn(config, console), dtype="BF16")
    write_json_atomically(folder / FILE, dict(settings))


def _drawn(config: PublishedConfig, console: Console | None) -> Iterator[tuple[str, Any]]:
    """Every published tensor, drawn when it is asked for."""
    model = Transformer(config, rng=Unfilled(), dtype=np.float32)  # shapes, without memory
    arrays = {name: t.data for name, t in [*model.named_parameters(), *model.named_buffers()]}
    shapes = {}
    for piece in config.pieces(arrays):
        shapes.setdefault(piece.published, (piece.ours, piece.published_shape(arrays[piece.ours])))
    rng, all_of_them, done, told = np.random.default_rng(0), sum(math.prod(s) for _, s in shapes.values()), 0, 0
    for published, (ours, shape) in shapes.items():
        if len(shape) == 1:
            yield published, np.full(shape, "norm" in ours, np.float32)
        else:
            weights = rng.standard_normal(shape, dtype=np.float32)
            yield published, weights if ours.startswith("embedding") else weights * np.float32(shape[-1] ** -0.5)
        done += math.prod(shape)
        percent = 100 * done // all_of_them
        if console is not None and percent >= told + 10:
            told = percent
            console.print(f"drawing {all_of_them / 1e6:,.0f} million weights: {percent} %", highlight=False)
