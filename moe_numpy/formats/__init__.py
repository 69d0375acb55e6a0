"""How a weight matrix is stored: number formats below float32, and their values. Nothing here knows files or models."""

from . import bfloat16, e8m0, fp8, mxfp4

__all__ = ["bfloat16", "e8m0", "fp8", "mxfp4"]
