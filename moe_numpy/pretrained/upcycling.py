"""A published dense model as a published Mixture of Experts that computes the same function at first.

One layer is in memory at a time. Weights keep the type in which they are stored; attention, norms and embedding are
copied bit for bit.

    renormalised   Mixtral: top-k of a softmax, divided by its sum
    raw            Qwen2-MoE, as it is; its shared expert, as wide as an expert, answers 0 at first
    deepseek_v3    GLM-4.5: V3's router with ordinary attention, sigmoids divided by their sum
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomically, write_json_atomically
from ..formats import bfloat16
from ..models.transformer_config import Dense, Layer, Sparse
from ..moe.upcycling import Upcycling
from ..moe.upcycling import plan as plan_layer
from ..typing import Random
from .config import FILE, PublishedConfig
from .converting import differences
from .errors import PretrainedError, quoted
from .loading import PublishedModel, open_published_model
from .new_folder import renamed_at_the_end, require_free, require_room
from .saving import published_arrays
from .tensor_writing import Bits, write_tensor_files
from .text_files import text_files

FAMILIES: Mapping[str, str] = {
    "renormalised": "mixtral",
    "mixtral": "mixtral",
    "raw": "qwen2_moe",
    "qwen2_moe": "qwen2_moe",
    "deepseek_v3": "glm4_moe",
}
"""From kinds of gate weights, and recipes, to families with Llama's attention."""

_OF_DENSE = {"architectures", "model_type", "intermediate_size", "mlp_bias", "attention_bias", "auto_map"}
_MATRICES = ("gate", "up", "down")
_BALANCE = 0.01


@dataclass(frozen=True, eq=False)
class Plan:
    """A dense model, and what it becomes.

    Attributes:
        files: of the dense model.
        config: of the sparse one.
        how: of each layer.
    """

    files: PublishedModel
    config: PublishedConfig
    how: Upcycling

    @property
    def num_bytes(self) -> int:
        """About what is written: the networks are there E times."""
        total = 0
        for ours, (piece, *_) in self.files.pieces.items():
            size = sum(tensor.range_of(of)[1] for tensor, of in self.files.weights.stored(piece.published))
            total += size * (self.how.copies if ".feed_forward." in ours else 1)
        return total


def plan(
    folder: Path, weights: str, copies: int, top_k: int = 2, granularity: int = 1, noise: float | None = None
) -> Plan:
    """What to write for the model in a folder: E G experts of width f / G, of which a token takes k G.

    Args:
        folder: of a dense model.
        weights: a key of FAMILIES.
        copies: E.
        top_k: k.
        granularity: G.
        noise: see :func:`moe_numpy.moe.upcycling.plan`.

    Raises:
        ValueError: a setting is not possible.
        PretrainedError: the model is not dense, or has a part that the family does not have; or as for
            :func:`moe_numpy.pretrained.from_pretrained`.
    """
    if weights not in FAMILIES:
        raise ValueError(f"--weights of a published model must be one of {', '.join(FAMILIES)}, got {weights!r:.60}")
    if min(copies, top_k, granularity) < 1:
        raise ValueError(
            f"num_experts, top_k and granularity must be at least 1, got {copies}, {top_k} and {granularity}"
        )
    files = open_published_model(folder)
    dense = _dense(files, folder)
    if dense.d_ff % granularity:
        raise ValueError(f"granularity must divide intermediate_size={dense.d_ff}, got {granularity}")
    sparse = _settings(files.config, FAMILIES[weights], copies * granularity, top_k * granularity, granularity)
    config = PublishedConfig(sparse, files.config.file)
    theirs = config.transformer
    experts = theirs.layers[0].feed_forward
    assert isinstance(experts, Sparse)
    ours = files.config.transformer
    layers = tuple(Layer(layer.attention, experts) for layer in ours.layers)
    expected = replace(ours, layers=layers, balance_coefficient=theirs.balance_coefficient)
    difference = next(differences("", expected, theirs), None)
    if difference is not None:
        raise PretrainedError(f"no {config.model_type} model continues {folder}: {difference}")
    return Plan(files, config, plan_layer(experts.recipe, copies, granularity, noise))


def write_upcycled(
    source: Path,
    planned: Plan,
    out: Path,
    *,
    rng: Random,
    reinitialise: float = 0.0,
    max_shard_bytes: float = 5e9,
    progress: Callable[[int], None] = lambda layers: None,
) -> None:
    """Write a planned model into a folder that does not exist, or is empty; whole, or not at all.

    Args:
        source: the folder of the dense model, whose files about text are copied.
        planned: what to write.
        out: where.
        rng: draws the routers, layer by layer.
        reinitialise: the share of each expert's units to draw anew; above 0, the function changes.
        max_shard_bytes: of weights in one file.
        progress: called with the number of layers that are done.

    Raises:
        FileExistsError: something is there.
        OSError: the disk failed or is full, or has too little room to begin with.
    """
    require_free(out)
    beside = text_files(source)
    needed = planned.num_bytes + min(planned.num_bytes, int(min(max_shard_bytes, 2**62)))  # one file is written twice
    require_room(out, needed + sum(map(len, beside.values())) + (1 << 20))
    with renamed_at_the_end(out) as folder:
        tensors = _tensors(planned, rng, reinitialise, progress)
        write_tensor_files(folder, tensors, max_shard_bytes=max_shard_bytes)
        write_atomically({folder / name: content for name, content in beside.items()})
        write_json_atomically(folder / FILE, dict(planned.config.values))


def _dense(files: PublishedModel, folder: Path) -> Dense:
    """The feed-forward network that all layers have. PretrainedError if one is sparse, or cannot become experts."""
    if files.config.quantisation is not None or files.config.fp8_block is not None:
        raise PretrainedError(f"{folder} is quantised: upcycle the model that it was made from")
    parts = [layer.feed_forward for layer in files.config.transformer.layers]
    sparse = [i for i, part in enumerate(parts) if isinstance(part, Sparse)]
    if sparse:
        raise PretrainedError(
            f"{folder}: layer {sparse[0]} has {parts[sparse[0]].num_experts} experts already; only dense models are "  # type: ignore[union-attr]
            "upcycled"
        )
    first = parts[0]
    assert isinstance(first, Dense)
    if first.bias:
        raise PretrainedError(f"{folder}: its networks have biases (mlp_bias), and SwiGLU experts have none")
    return first


def _settings(source: PublishedConfig, family: str, num_experts: int, top_k: int, granularity: int) -> dict[str, Any]:
    """``config.json`` of the sparse model. What the dense one leaves to its defaults is said."""
    dense = source.transformer
    attention: Any = dense.layers[0].attention
    width = source.values["intermediate_size"] // granularity
    values = {name: value for name, value in source.values.items() if name not in _OF_DENSE}
    values |= {
        "model_type": family,
        "num_experts_per_tok": top_k,
        "rms_norm_eps": dense.norm.eps,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.d_head,
    }
    if "rope_theta" not in json.dumps(values):
        values["rope_theta"] = attention.parts.rotary.base
    if family == "mixtral":
        return values | {
            "architectures": ["MixtralForCausalLM"],
            "num_local_experts": num_experts,
            "intermediate_size": width,
            "router_aux_loss_coef": _BALANCE,
            "sliding_window": None,
        }
    if family == "qwen2_moe":
        return values | {
            "architectures": ["Qwen2MoeForCausalLM"],
            "num_experts": num_experts,
            "moe_intermediate_size": width,
            "shared_expert_intermediate_size": width,
            "intermediate_size": width * granularity,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "qkv_bias": False,
            "use_sliding_window": False,
            "router_aux_loss_coef": _BALANCE,
        }
    return values | {
        "architectures": ["Glm4MoeForCausalLM"],
        "n_routed_experts": num_experts,
        "moe_intermediate_size": width,
        "intermediate_size": width * granularity,
        "n_shared_experts": 0,
        "first_k_dense_replace": 0,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "partial_rotary_factor": 1.0,
        "use_qk_norm": False,
        "attention_bias": False,
    }


def _tensors(
    planned: Plan, rng: Random, reinitialise: float, progress: Callable[[int], None]
) -> Iterator[tuple[str, Any]]:
    """Everything to write, in order."""
    files, weights = planned.files, planned.files.weights
    for ours, pieces in files.pieces.items():
        if ".feed_forward." not in ours:
            for piece in pieces:
                yield from ((tensor.name, tensor) for tensor, _ in weights.stored(piece.published))
    for i in range(len(files.config.transformer.layers)):
        names = [files.pieces[f"layers.{i}.feed_forward.{name}.weight"][0].published for name in _MATRICES]
        dtypes = {tensor.dtype for name in names for tensor, _ in weights.stored(name)}
        stored = next((dtype for dtype in ("F64", "F32", "F16", "BF16") if dtype in dtypes), "F32")
        gate, up, down = map(weights.values, names)
        of_layer = planned.how.layer(gate, up, down, rng, reinitialise)
        arrays = {f"layers.{i}.feed_forward.{name}": array for name, array in of_layer.items()}
        for name, array in published_arrays(planned.config, arrays):
            yield name, _stored(name, array, "F32" if array.ndim == 1 else stored)
        progress(i + 1)


def _stored(name: str, array: np.ndarray, dtype: str) -> Any:
    """An array in the type in which the dense network is stored. PretrainedError if it does not fit."""
    if dtype == "BF16":
        return Bits(dtype, bfloat16.encode(array.astype(np.float32, copy=False)))
    try:
        with np.errstate(over="raise"):
            return array.astype({"F16": np.float16, "F64": np.float64}.get(dtype, np.float32), copy=False)
    except FloatingPointError as error:
        raise PretrainedError(f"tensor {quoted(name)}: its scaled weights are beyond the largest of {dtype}") from error
