"""Tiny published models without their files: settings, the tensors' names and shapes, and what transformers computes.

``configs/FAMILY.json`` holds, by the name of a configuration; ``parity/models/record.py`` wrote it:

    published    config.json as the publisher would have written it
    version_5    the same as transformers 5 writes it; both without what changes no number
    seed, width  of the weights: each tensor has values of its own, drawn by its name
    tensors      {name with * for numbers: [shape, slope, numbers of each *]}
    sums         Σ_v C_tv logits_tv for each position t of the second text

f = Σ C logits over both texts, with random C. A slope is the derivative of f along a random direction, drawn by name,
of all tensors with that name together: it changes if a tensor is read or written transposed, or in another's place.
"""

import itertools
import json
import re
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np

from moe_numpy.formats import fp8, mxfp4
from moe_numpy.pretrained import write_tensor_files

CONFIGS = Path(__file__).parent / "configs"
LENGTH = 24
BLOCK = (12, 20)


def models():
    """(family, name) of all."""
    return [(path.stem, name) for path in sorted(CONFIGS.glob("*.json")) for name in recorded(path.stem)]


def recorded(family):
    """What is recorded of a family, by the name of the configuration."""
    return json.loads((CONFIGS / f"{family}.json").read_text())


def pattern(name):
    """The name with * for its numbers."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def names_of(model):
    """The names and shapes of all tensors."""
    found = {}
    for like, (shape, _, numbers) in model["tensors"].items():
        for chosen in itertools.product(*numbers):
            found[like.replace("*", "{}").format(*chosen)] = tuple(shape)
    return found


def values(name, shape, seed, width):
    """The values of a tensor, all of them bfloat16."""
    array = 1.7 / width**0.5 * _rng(name, seed).standard_normal(shape)
    if "norm" in name and name.endswith("weight") and len(shape) == 1:
        array += 1
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def direction(name, shape, seed):
    """The direction of its slope."""
    return _rng(f"direction of {name}", seed).standard_normal(shape)


def texts(seed):
    """Two texts, and C."""
    rng = np.random.default_rng(seed)
    return rng.integers(2, 64, (2, LENGTH)), rng.standard_normal((2, LENGTH, 64))


def _rng(name, seed):
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def written(folder, family, packed=None, name="plain"):
    """A tiny model of the family, its experts plain or packed; its two texts."""
    model = recorded(family)[name]
    config, tensors = dict(model["published"].get("text_config", model["published"])), {}
    for name, shape in names_of(model).items():
        array = values(name, shape, model["seed"], model["width"])
        if packed == "fp8" and "experts" in name:
            codes, scales = fp8.quantise(array, BLOCK)
            tensors |= {name: codes.view(ml_dtypes.float8_e4m3fn), f"{name}_scale_inv": scales}
        elif packed == "mxfp4" and "experts" in name and name.endswith("_proj"):
            blocks, scales = mxfp4.quantise(np.ascontiguousarray(array.swapaxes(-1, -2)))
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        else:
            tensors[name] = array
    if packed == "fp8":
        config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(BLOCK)}
    elif packed == "mxfp4":
        config["quantization_config"] = {"quant_method": "mxfp4"}
    write_tensor_files(folder, tensors.items(), dtype="BF16" if packed is None else None, max_shard_bytes=3e5)
    (folder / "config.json").write_text(json.dumps(config))
    return texts(model["seed"])[0]
