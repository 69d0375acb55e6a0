"""From sequences to T real tokens, which is all that routing sees, and back."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..autodiff.arrays import is_float
from ..nn import Padding
from ..nn.padding import padding_of
from ..typing import Float, Random
from .routing import Batch, Routing


def tokens_and_batch(
    x: Tensor, d_model: int, training: bool, rng: Random | None, token_ids: Any, mask: Any, modality: Any = None
) -> tuple[Float[Tensor, "T d"], Batch, Padding | None]:
    """x as T real tokens, what else a router may know about them, and the padding that was between them."""
    if not hasattr(x, "dtype") or not is_float(x.dtype):
        raise TypeError(f"x must be a Tensor of floats, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim == 0 or x.shape[-1] != d_model:
        raise ValueError(f"x must end in d_model={d_model}, got shape {x.shape}")
    if token_ids is not None and token_ids.shape != x.shape[:-1]:
        raise ValueError(f"token_ids must have shape {x.shape[:-1]}, that of x without d, got {token_ids.shape}")
    if modality is not None and modality.shape != x.shape[:-1]:
        raise ValueError(f"modality must have shape {x.shape[:-1]}, that of x without d, got {modality.shape}")
    padding = padding_of(mask, x.shape[:-1])
    if padding is None:
        length = x.shape[-2] if x.ndim > 1 else 1
        return x.reshape(-1, d_model), Batch(length, training, rng, token_ids, modality=modality), None
    lengths = padding.lengths or (0,)
    ids = None if token_ids is None else padding.remove(token_ids)
    uneven = lengths if min(lengths) < max(lengths) else None
    modality = None if modality is None else padding.remove(modality)
    return padding.remove(x), Batch(max(lengths), training, rng, ids, uneven, modality=modality), padding


def with_padding(y: Float[Tensor, "N d"], routing: Routing, padding: Padding) -> tuple[Tensor, Routing]:
    """Zeros between the real tokens, and a routing that numbers all."""
    real = array_namespace(routing.token).asarray(padding.real)
    asked = routing.statistics.asked
    modality = routing.statistics.modality
    if modality is not None:
        everywhere = np.zeros(math.prod(padding.shape), modality.dtype)
        everywhere[padding.real] = modality
        modality = everywhere
    statistics = replace(routing.statistics, asked=replace(asked, token=real[asked.token]), modality=modality)
    token, num_tokens = real[routing.token], math.prod(padding.shape)
    return padding.restore(y), replace(routing, token=token, num_tokens=num_tokens, statistics=statistics)
