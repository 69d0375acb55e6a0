"""A published model as a GGUF file, which llama.cpp reads: the package gguf writes it, llama.cpp's own code quantises.

    python -m benchmarks.gguf_file FOLDER FILE FORMAT THREADS

Q4_K_M and MXFP4 are the mixtures of llama.cpp's program llama-quantize (src/llama-quant.cpp): in Q4_K_M the output
matrix and, in some layers, the value and the down matrices are Q6_K; in MXFP4 all but the experts is Q8_0.
"""

import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moe_numpy.kernels.threads import blocks
from moe_numpy.pretrained import PublishedConfig, TensorFiles

from .peer_process import answers

NEAREST = {"bfloat16": "F16", "int8": "Q8_0", "int4": "Q4_K_M", "mxfp4": "MXFP4"}  # to each format of ours
ARCHITECTURES = {"qwen3_moe": "qwen3moe", "olmoe": "olmoe"}
_BLOCK = 256  # weights of a row that K-quants store together
_PIECE = 1 << 22  # weights that one thread quantises at a time

Read = Callable[[], np.ndarray]


def format_for(ours: str, settings: Any) -> str | None:
    """The format that is nearest to one of ours, for such a model; None if there is none.

    Raises:
        ValueError: the family is none of those that are written here.
    """
    kind = settings["model_type"]
    if kind not in ARCHITECTURES:
        raise ValueError(f"llama.cpp is measured with {', '.join(ARCHITECTURES)}, the model is {kind!r}")
    inputs = settings["hidden_size"], _expert_width(settings), settings["num_attention_heads"] * _head_width(settings)
    found = NEAREST.get(ours)
    return "Q4_0" if found == "Q4_K_M" and any(width % _BLOCK for width in inputs) else found


def write_gguf(folder: Path, file: Path, format: str, num_threads: int) -> tuple[int, float]:
    """Write the model of a folder. Memory holds one matrix of all experts of a layer at a time.

    Returns:
        Bytes outside the experts that a token reads, and those of one expert.
    """
    import gguf

    files = TensorFiles.open(folder)
    settings = PublishedConfig.read(folder, files).values
    num_layers = settings["num_hidden_layers"]
    writer = gguf.GGUFWriter(file, ARCHITECTURES[settings["model_type"]])
    _describe(writer, settings)
    tensors = list(_tensors(files, settings))
    sizes = {}
    for name, shape, _ in tensors:
        kind = _kind(name, shape, format, num_layers)
        stored = gguf.quant_shape_to_byte_shape(shape, kind)
        dtype = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}.get(kind)
        sizes[name] = int(np.prod(stored))
        writer.add_tensor_info(
            name, shape if dtype else stored, np.dtype(dtype or np.uint8), sizes[name], raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape, read in tensors:
        writer.write_tensor_data(_quantised(read(), _kind(name, shape, format, num_layers), num_threads))
    writer.close()
    of_experts = {name: size for name, size in sizes.items() if "_exps" in name}
    experts, num_experts = sum(of_experts.values()), len(of_experts) // 3 * settings["num_experts"]
    looked_up = sizes["token_embd.weight"] if "output.weight" in sizes else 0
    return sum(sizes.values()) - experts - looked_up, experts / num_experts


def _describe(writer: Any, settings: Any) -> None:
    """Sizes, and a vocabulary of made-up words: prompts are ids."""
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(settings["num_attention_heads"])
    writer.add_head_count_kv(settings["num_key_value_heads"])
    for add in (writer.add_key_length, writer.add_value_length):
        add(_head_width(settings))
    writer.add_rope_freq_base(settings.get("rope_theta") or settings["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    writer.add_expert_count(settings["num_experts"])
    writer.add_expert_used_count(settings["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(_expert_width(settings))
    num_words = settings["vocab_size"]
    writer.add_vocab_size(num_words)
    special = [b"<unk>", b"<s>", b"</s>", *(f"<0x{i:02X}>".encode() for i in range(256))]
    words = [*special, *(f"\u2581w{i}".encode() for i in range(num_words - len(special)))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * num_words)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (num_words - len(special)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)


def _expert_width(settings: Any) -> int:
    return int(settings.get("moe_intermediate_size", settings["intermediate_size"]))


def _head_width(settings: Any) -> int:
    return int(settings.get("head_dim", settings["hidden_size"] // settings["num_attention_heads"]))


def _tensors(files: TensorFiles, settings: Any) -> Iterator[tuple[str, tuple[int, ...], Read]]:
    """Each tensor by llama.cpp's name, with its shape and how to read it in float32."""
    import gguf

    arch = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == ARCHITECTURES[settings["model_type"]])
    names = gguf.get_tensor_name_map(arch, settings["num_hidden_layers"])
    experts: dict[str, list[str]] = {}
    for published in files:
        path, expert, rest = published.partition(".experts.")
        if expert:  # layer.mlp.experts.7.up_proj.weight
            number, _, matrix = rest.partition(".")
            experts.setdefault(f"{path}.experts.{matrix}", [""] * settings["num_experts"])[int(number)] = published
        else:
            yield _name(names, published), files[published].shape, partial(_floats, files, [published], False)
    for merged, of in experts.items():
        yield _name(names, merged), (len(of), *files[of[0]].shape), partial(_floats, files, of, True)


def _name(names: Any, published: str) -> str:
    found: str = names.get_name(published, try_suffixes=(".weight",))
    return found


def _floats(files: TensorFiles, published: list[str], stacked: bool) -> np.ndarray:
    arrays = [files[name].float32() for name in published]
    return np.stack(arrays) if stacked else arrays[0]


def _kind(name: str, shape: tuple[int, ...], format: str, num_layers: int) -> Any:
    """How a tensor is stored."""
    from gguf import GGMLQuantizationType as Kind

    if len(shape) == 1 or "ffn_gate_inp" in name:
        return Kind.F32
    if format == "MXFP4":
        return Kind.MXFP4 if "_exps" in name else Kind.Q8_0
    if format != "Q4_K_M":
        return Kind[format]
    if name == "output.weight":
        return Kind.Q6_K
    if "attn_v" in name or "ffn_down" in name:
        layer, eighth = int(name.split(".")[1]), num_layers // 8
        if layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2:
            return Kind.Q6_K
    return Kind.Q4_K


def _quantised(weights: np.ndarray, kind: Any, num_threads: int) -> np.ndarray:
    """The bytes of weights, on all threads: ctypes releases Python's lock."""
    import gguf

    if kind == gguf.GGMLQuantizationType.F32:
        return weights
    if kind == gguf.GGMLQuantizationType.F16:
        return weights.astype(np.float16)
    quantise = _quantise_chunk()
    width = weights.shape[-1]
    stored = np.empty(gguf.quant_shape_to_byte_shape(weights.shape, kind), np.uint8)
    rows = np.ascontiguousarray(weights, np.float32).reshape(-1, width)
    out = stored.reshape(len(rows), -1)

    def piece(part: slice) -> None:
        quantise(int(kind), rows[part].ctypes.data, out[part].ctypes.data, 0, len(rows[part]), width, None)

    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(piece, blocks(len(rows), max(1, _PIECE // width))))
    return stored


def _quantise_chunk() -> Any:
    """``ggml_quantize_chunk`` of ggml.h, from the library inside xllamacpp."""
    import xllamacpp.xllamacpp

    quantise = ctypes.CDLL(xllamacpp.xllamacpp.__file__).ggml_quantize_chunk
    long, pointer = ctypes.c_int64, ctypes.c_void_p
    quantise.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, pointer]
    quantise.restype = ctypes.c_size_t
    return quantise


if __name__ == "__main__":
    with answers() as out:
        print(json.dumps(write_gguf(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))), file=out)
