"""What the engine needs to know about an array: its library, and whether its entries can have gradients."""

from typing import Any

import numpy as np

from .. import kernels

_names: dict[type, str | None] = {}
_floats: dict[Any, bool] = {}


def library_of(x: Any) -> str | None:
    """``"numpy"``, ``"cupy"`` ... for an array; None for a Python or NumPy scalar, which fits any library."""
    kind = type(x)
    if kind not in _names:
        is_array = hasattr(kind, "shape") and hasattr(kind, "dtype") and not isinstance(x, np.generic)
        _names[kind] = kind.__module__.partition(".")[0] if is_array else None
        if isinstance(x, np.ndarray):
            _names[kind] = "numpy"  # subclasses too: memory-mapped weights are numpy arrays
    return _names[kind]


def to_host(x: Any) -> Any:
    """x as a NumPy array; for arrays on a GPU this waits and copies."""
    return kernels.of(x).to_host(x)


def is_finite(x: Any) -> bool:
    """Whether no entry is NaN or infinite; for arrays on a GPU this waits."""
    finite = (abs(x) < float("inf")).all()
    return bool(finite if isinstance(finite, np.generic) else to_host(finite))


def sum_of(x: Any, axis: Any, keepdims: bool = False) -> Any:
    """Σ x along axes, in the type of x. Floats narrower than float32 are added in float32 and rounded once."""
    if x.dtype.itemsize < 4 and is_float(x.dtype):
        return x.sum(axis=axis, dtype=np.float32, keepdims=keepdims).astype(x.dtype)
    return x.sum(axis=axis, keepdims=keepdims)


def is_float(dtype: Any) -> bool:
    """Whether entries of this type can have gradients. To NumPy, bfloat16 from ml_dtypes is of kind "V"."""
    known = _floats.get(dtype)
    if known is None:
        known = _floats[dtype] = dtype.kind == "f" or dtype.name == "bfloat16"
    return known
