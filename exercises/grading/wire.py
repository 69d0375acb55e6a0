"""What two processes say to each other: JSON, with arrays as raw bytes behind it. No pickle, so nothing is executed.

A message is ``MOE1``, the length of the JSON (8 bytes), the JSON, and the arrays in NumPy's own format. In the JSON
``{"array": 3}`` stands for array number 3.
"""

import io
import json
import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from ..exercise import Case, Same, Seeded

_MAGIC = b"MOE1"
_HEAD = struct.Struct("<4sQQ")
LARGEST = 64 * 2**20  # bytes of a message
_LARGEST_TEXT = 4 * 2**20  # of its JSON, which takes many times that in memory
_LONGEST_NAME = 100


class BrokenMessageError(ValueError):
    """What came is no message."""


@dataclass(frozen=True)
class Foreign:
    """A value that does not travel: an object of this type."""

    type: str


def write(stream: BinaryIO, value: Any) -> None:
    """Send one message; of one that is too large only the head, which says how large."""
    arrays: list[Any] = []
    text = json.dumps(_pack(value, arrays)).encode()
    size = sum(array.nbytes for array in arrays)
    if len(text) > _LARGEST_TEXT or len(text) + size > LARGEST:
        stream.write(_HEAD.pack(_MAGIC, len(text), size))
        stream.flush()
        return
    body = io.BytesIO()
    for array in arrays:
        np.lib.format.write_array(body, array, allow_pickle=False)
    stream.write(_HEAD.pack(_MAGIC, len(text), body.tell()) + text + body.getvalue())
    stream.flush()


def read(stream: BinaryIO) -> Any:
    """Receive one message. EOFError at the end of the stream, BrokenMessageError for anything else than a message."""
    head = _exactly(stream, _HEAD.size)
    magic, text_size, body_size = _HEAD.unpack(head)
    if magic != _MAGIC:
        raise BrokenMessageError("not a message")
    if text_size > _LARGEST_TEXT or text_size + body_size > LARGEST:
        raise BrokenMessageError(f"a message of {text_size + body_size:,} bytes; at most {LARGEST:,}")
    text, body = _exactly(stream, text_size), io.BytesIO(_exactly(stream, body_size))
    try:
        value = json.loads(text)
        arrays = []
        while body.tell() < body_size:
            arrays.append(_read_array(body))
        return _unpack(value, arrays)
    except Exception as error:  # whatever bytes can do to a parser
        raise BrokenMessageError(f"{type(error).__name__}: {str(error)[:200]}") from error


def _read_array(body: io.BytesIO) -> Any:
    """One array in NumPy's format. ValueError if it is no array of numbers, or larger than what is left."""
    version = np.lib.format.read_magic(body)
    if version != (1, 0):
        raise ValueError(f"an array in version {version} of NumPy's format")
    shape, columns_first, dtype = np.lib.format.read_array_header_1_0(body)
    if dtype.kind not in "biuf" or dtype.hasobject:
        raise ValueError(f"an array of dtype {dtype}")
    size = math.prod(shape) * dtype.itemsize
    data = body.read(max(size, 0))
    if len(data) != size:
        raise ValueError(f"an array of {size:,} bytes, {len(data):,} of them there")
    return np.ndarray(shape, dtype, data, order="F" if columns_first else "C").copy(order="K")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _pack(value: Any, arrays: list[Any]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            return {"foreign": f"an array of dtype {array.dtype}"}
        arrays.append(array)
        return {"scalar" if isinstance(value, np.generic) else "array": len(arrays) - 1}
    if isinstance(value, tuple):
        return {"tuple": [_pack(v, arrays) for v in value]}
    if isinstance(value, list):
        return [_pack(v, arrays) for v in value]
    if isinstance(value, dict) and all(type(k) is str for k in value):
        return {"dict": {k: _pack(v, arrays) for k, v in value.items()}}
    if isinstance(value, Seeded):
        return {"seed": value.seed}
    if isinstance(value, Same):
        return {"same": value.position}
    if isinstance(value, Foreign):
        return {"foreign": value.type}
    if isinstance(value, Case):
        parts = (value.args, dict(value.settings), value.layout, value.constants, value.cotangents)
        return {"case": _pack(parts, arrays)}
    return {"foreign": type(value).__name__[:_LONGEST_NAME]}


def _unpack(value: Any, arrays: list[Any]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "array":
        return arrays[inner]
    if kind == "scalar":
        return arrays[inner][()]
    if kind == "tuple":
        return tuple(_unpack(v, arrays) for v in inner)
    if kind == "dict":
        return {k: _unpack(v, arrays) for k, v in inner.items()}
    if kind == "seed":
        return Seeded(inner)
    if kind == "same":
        return Same(inner)
    if kind == "case":
        return Case(*_unpack(inner, arrays))
    if kind == "foreign":
        return Foreign(str(inner)[:_LONGEST_NAME])
    raise KeyError(kind)
