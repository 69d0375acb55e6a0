"""Small folders in the published layout, and how to write a safetensors file that is wrong."""

import json

import ml_dtypes
import numpy as np

from moe_numpy.pretrained import TensorFiles, write_tensor_files


def some_tensors():
    rng = np.random.default_rng(0)
    tensors = {f"model.layers.{i}.mlp.weight": rng.normal(size=(4, 6)).astype(ml_dtypes.bfloat16) for i in range(4)}
    tensors |= {f"model.layers.{i}.norm.weight": rng.normal(size=6).astype("f4") for i in range(4)}
    tensors["model.half"] = rng.normal(size=(3, 5)).astype("f2")
    tensors["model.ids"] = rng.integers(-9, 9, 7)
    tensors["model.blocks"] = rng.integers(0, 256, (2, 3, 16), np.uint8)
    tensors["model.fp8"] = rng.normal(size=(3, 3)).astype(ml_dtypes.float8_e4m3fn)
    tensors["model.scalar"] = np.array(2.5)
    tensors["model.empty"] = np.zeros((0, 3), "f4")
    return tensors


def single(folder):
    write_tensor_files(folder, some_tensors().items())
    return folder


def sharded(folder):
    write_tensor_files(folder, some_tensors().items(), max_shard_bytes=150)
    return folder


def contents(folder):
    """Everything that a reader gets: name to type, shape and bytes."""
    return {t.name: (t.dtype, t.shape, t.raw.tobytes()) for t in TensorFiles.open(folder).values()}


def header_of(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put(path, header, values=b""):
    """A file with this header, as JSON or bytes, whatever the values are."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + values)
    return path
