"""Published number formats, written with NumPy: MXFP4 as in gpt-oss, FP8 in blocks as in DeepSeek-V3.

``pack`` turns the tensors of a folder into what a quantised folder stores, ``unpack`` back into the values that it
means. Scales have so few digits that every value is exact in float32.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from .dialects import old_config

Tensors = dict[str, np.ndarray]
Stored = dict[str, tuple[str, np.ndarray]]  # name: type in the file, bytes in the tensor's shape

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
FP4 = np.concatenate([FP4, -FP4])
GROUP = 32  # values that share a scale in MXFP4
BLOCK = (12, 20)  # rows and columns that share a scale in FP8; neither divides the widths of the tiny model
QUANTIZATION = {
    "mxfp4": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "fp8": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": list(BLOCK),
    },
}


def fp8_values() -> np.ndarray:
    """The 256 values of float8 e4m3fn: sign, 4 bits of exponent with bias 7, 3 of mantissa; 0x7F and 0xFF are NaN."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    size = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    size[byte & 127 == 127] = np.nan
    return np.where(byte < 128, size, -size).astype(np.float32)


FP8 = fp8_values()


def pack(kind: str, tensors: Tensors) -> Stored:
    """What the file stores; tensors that stay as they are become bfloat16."""
    stored: Stored = {}
    for name, tensor in tensors.items():
        if kind == "mxfp4" and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            blocks, scales = _to_mxfp4(tensor.swapaxes(1, 2))
            stored |= {name + "_blocks": ("U8", blocks), name + "_scales": ("U8", scales)}
        elif kind == "fp8" and name.startswith("model.layers.") and tensor.ndim == 2 and ".gate." not in name:
            values, scales = _to_fp8(tensor)
            stored |= {name: ("F8_E4M3", values), name + "_scale_inv": ("F32", scales)}
        elif "correction_bias" in name:
            stored[name] = ("F32", tensor)
        else:
            stored[name] = ("BF16", (tensor.view(np.uint32) >> 16).astype(np.uint16))
    return stored


def unpack(stored: Stored) -> Tensors:
    """The values in float32, by the names of a folder that is not quantised."""
    tensors: Tensors = {}
    for name, (kind, data) in stored.items():
        if name.endswith("_blocks"):
            scales = stored[name.removesuffix("_blocks") + "_scales"][1]
            tensors[name.removesuffix("_blocks")] = np.ascontiguousarray(_from_mxfp4(data, scales).swapaxes(1, 2))
        elif kind == "F8_E4M3":
            rows, columns = data.shape
            scale = np.repeat(np.repeat(stored[name + "_scale_inv"][1], BLOCK[0], 0), BLOCK[1], 1)
            tensors[name] = FP8[data] * scale[:rows, :columns]
        elif kind == "BF16":
            tensors[name] = (data.astype(np.uint32) << 16).view(np.float32)
        elif not name.endswith(("_scales", "_scale_inv")):
            tensors[name] = data
    return tensors


def save_packed(kind: str, folder: Path, target: Path) -> None:
    """The model in ``folder`` as a quantised folder ``target``, config.json in the dialect of its publisher."""
    target.mkdir(parents=True, exist_ok=True)
    config = old_config(json.loads((folder / "config.json").read_text()))
    config["quantization_config"] = QUANTIZATION[kind]
    config.pop("num_nextn_predict_layers", None)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _save(pack(kind, load_file(folder / "model.safetensors")), target / "model.safetensors")


def _to_mxfp4(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[..., in] to blocks [..., in / 32, 16] and scales [..., in / 32]: the nearest values, low nibble first."""
    groups = rows.reshape(*rows.shape[:-1], -1, GROUP)
    exponent = np.floor(np.log2(np.abs(groups).max(-1))) - 2
    code = np.abs(groups[..., None] / 2.0 ** exponent[..., None, None] - FP4).argmin(-1).astype(np.uint8)
    return code[..., ::2] | code[..., 1::2] << 4, (exponent + 127).astype(np.uint8)


def _from_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    values = FP4[np.stack([blocks & 15, blocks >> 4], axis=-1)].reshape(*scales.shape, GROUP)
    return (values * np.exp2(scales.astype(np.float32) - 127)[..., None]).reshape(*scales.shape[:-1], -1)


def _to_fp8(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes in the shape of the matrix, and a scale for every block, with 8 significant bits."""
    high, wide = (-(-size // block) for size, block in zip(matrix.shape, BLOCK, strict=True))
    scales = np.empty((high, wide), dtype=np.float32)
    codes = np.empty(matrix.shape, dtype=np.uint8)
    for i in range(high):
        for j in range(wide):
            part = np.s_[i * BLOCK[0] : (i + 1) * BLOCK[0], j * BLOCK[1] : (j + 1) * BLOCK[1]]
            fraction, exponent = np.frexp(np.abs(matrix[part]).max() / 448)
            scales[i, j] = np.ldexp(np.ceil(fraction * 256) / 256, exponent)
            codes[part] = np.nanargmin(np.abs(matrix[part][..., None] / scales[i, j] - FP8), axis=-1)
    return codes, scales


def _save(stored: Stored, path: Path) -> None:
    """A safetensors file: the length of the header in 8 bytes, the header, the tensors one after the other."""
    header, start = {}, 0
    for name, (kind, data) in stored.items():
        header[name] = {"dtype": kind, "shape": data.shape, "data_offsets": [start, start + data.nbytes]}
        start += data.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, data in stored.values():
            file.write(np.ascontiguousarray(data).tobytes())
