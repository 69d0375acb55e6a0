"""Formats by name, and weights stored in one of them."""

from typing import Any

import numpy as np

from ..typing import Array, Float
from .bfloat16 import BFloat16Matrix
from .float32 import Float32Matrix
from .fp8 import FP8Matrix
from .int4 import Int4Matrix
from .int8 import Int8Matrix
from .matrix import Matrix
from .mxfp4 import MXFP4Matrix
from .stack import Stack

FORMATS: dict[str, type[Matrix]] = {
    kind.format: kind for kind in (Float32Matrix, BFloat16Matrix, Int8Matrix, Int4Matrix, MXFP4Matrix, FP8Matrix)
}


def quantise(weights: Float[Array, "*E out in"], format: str, **settings: Any) -> Any:
    """The weights in a format: a :class:`Matrix` of [out, in], a :class:`Stack` of [E, out, in].

    Args:
        weights: floats of any type, rounded to float32 first.
        format: one of FORMATS.
        settings: of the format: ``block`` for fp8.

    Raises:
        ValueError: an unknown format, another number of axes, a width that does not fit, or a weight that is not finite
            in the format.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if weights.ndim not in (2, 3):
        raise ValueError(f"weights must be [out, in], or [E, out, in] for a stack, got {weights.shape}")
    kind = FORMATS[format]
    with np.errstate(over="ignore"):
        floats = weights.astype(np.float32, copy=False)
    if not np.isfinite(floats).all():
        where = tuple(np.argwhere(~np.isfinite(floats))[0].tolist())
        raise ValueError(f"{format}: weights must be finite in float32, got {weights[where]} at {list(where)}")
    arrays = kind.encode(floats, **settings)
    return kind(**arrays, **settings) if weights.ndim == 2 else Stack(kind, arrays, settings)
