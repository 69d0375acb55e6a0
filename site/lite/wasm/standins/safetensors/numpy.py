"""The two functions that the library calls."""

import json
from typing import Any

import numpy as np

from . import TYPES, parsed

_NAMES = {np.dtype(code): name for name, code in TYPES.items()}


def save(tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """The content of a file."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    values = b""
    for name, array in tensors.items():
        stored = array.tobytes()
        ends = [len(values), len(values) + len(stored)]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": ends}
        values += stored
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def load(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file."""
    return parsed(content)[1]
