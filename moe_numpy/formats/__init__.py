"""How a weight matrix is stored: number formats, their values, and products. Nothing here knows files or models.

- One file a format: layout, ``quantise`` or ``encode``, ``dequantise`` or ``decode``, and a :class:`Matrix`.
- ``matrix.py``: what all of them can do, and the definition of their product; the loop is in ``kernels/``.
- ``stack.py``: several of one format and shape.
- ``named.py``: formats by name.
"""

from . import bfloat16, e8m0, float32, fp8, int4, int8, mxfp4
from .matrix import Matrix
from .named import FORMATS, quantise
from .stack import Stack

__all__ = [
    "FORMATS", "Matrix", "Stack", "bfloat16", "e8m0", "float32", "fp8", "int4", "int8", "mxfp4", "quantise",
]  # fmt: skip
