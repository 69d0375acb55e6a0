"""Which array library a value belongs to."""

from typing import Any

import numpy as np

_names: dict[type, str | None] = {}


def library_of(x: Any) -> str | None:
    """``"numpy"``, ``"cupy"`` ... for an array; None for a Python or NumPy scalar, which fits any library."""
    kind = type(x)
    if kind not in _names:
        is_array = hasattr(kind, "shape") and hasattr(kind, "dtype") and not isinstance(x, np.generic)
        _names[kind] = kind.__module__.partition(".")[0] if is_array else None
        if isinstance(x, np.ndarray):
            _names[kind] = "numpy"  # subclasses too: memory-mapped weights are numpy arrays
    return _names[kind]
