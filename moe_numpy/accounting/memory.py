"""Bytes of weights and of the key/value cache."""

import math
from collections.abc import Mapping

from .architecture import Architecture
from .parameters import balancing_biases, total_parameters

#: Bits of one number. mxfp4 is 4 bits and one 8-bit scale for 32 numbers (Open Compute Project 2023).
BITS: Mapping[str, float] = {
    "fp64": 64,
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "mxfp4": 4.25,
}


def in_bytes(numbers: int, dtype: str) -> int:
    """Bytes of so many numbers.

    Raises:
        ValueError: dtype is not in :data:`BITS`.
    """
    if dtype not in BITS:
        raise ValueError(f"dtype must be one of {', '.join(BITS)}, got {dtype!r}")
    return math.ceil(numbers * BITS[dtype] / 8)


def weight_bytes(architecture: Architecture, dtype: str) -> int:
    """Bytes of all parameters and balancing biases, were all of this type.

    Published checkpoints mix types: gpt-oss has its experts in mxfp4 and the rest in bf16.
    """
    return in_bytes(total_parameters(architecture).with_embedding + balancing_biases(architecture), dtype)


def cache_bytes_per_token(architecture: Architecture, dtype: str) -> int:
    """Bytes that all layers together keep of one token, as long as no attention window has passed it.

    2 K h numbers a layer for grouped-query attention, r + rope for latent attention. With an encoder: of one
    source token and one target token.
    """
    return cache_bytes(architecture, 1, dtype)


def cache_bytes(architecture: Architecture, context: int, dtype: str) -> int:
    """Bytes of the key/value cache of one sequence of ``context`` tokens.

    A layer with an attention window keeps no more tokens than that.
    """
    return in_bytes(architecture.keys_attended(context) * architecture.attention.cached_numbers, dtype)
