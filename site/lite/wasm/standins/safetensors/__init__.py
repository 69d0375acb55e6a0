"""What safetensors is to the library: the WebAssembly Python of the tests has none. By the format's definition."""

import json
from typing import Any

import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}


class SafetensorError(Exception):
    """A file of another kind."""


def parsed(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metadata and the arrays of a file."""
    try:
        end = 8 + int.from_bytes(content[:8], "little")
        entries = json.loads(content[8:end])
    except ValueError as error:
        raise SafetensorError(str(error)) from error
    about = entries.pop("__metadata__", {})
    return about, {name: _array(content[end:], **entry) for name, entry in entries.items()}


def _array(content: bytes, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    return np.frombuffer(content[slice(*data_offsets)], TYPES[dtype]).reshape(shape).copy()
