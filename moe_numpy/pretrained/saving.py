"""A model in the published layout of its family: what other programs read."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from ..files import write_atomically, write_json_atomically
from ..formats import Matrix
from ..kernels import to_host
from ..models import Transformer
from ..nn import MatrixLinear
from .config import FILE, PublishedConfig
from .errors import PretrainedError
from .pieces import EACH, Piece
from .stored_experts import StoredExperts
from .tensor_files import INDEX, SUFFIX
from .tensor_writing import write_tensor_files


def save_pretrained(
    model: Transformer,
    folder: str | os.PathLike,
    *,
    dtype: Literal["BF16", "F32"] | None = None,
    max_shard_bytes: float = 5e9,
    beside: Mapping[str, str | bytes] = MappingProxyType({}),
) -> None:
    """Write ``config.json`` and safetensors files that transformers loads as the same model.

    Args:
        model: loaded from a published folder, or converted to a family.
        folder: made if it does not exist; holds no model yet.
        dtype: how the weights are stored; None leaves their type.
        max_shard_bytes: of weights in one file.
        beside: further files by name, such as those of the tokenizer.

    Raises:
        TypeError: the configuration of the model is not a published one.
        PretrainedError: the folder holds a model already.
        OSError: the disk failed or is full; nothing half-written stays behind.
    """
    config = _config_of(model)
    folder = Path(folder)
    if (folder / FILE).exists():
        raise PretrainedError(f"{folder / FILE} exists: choose another folder, or delete it")
    arrays = published_arrays(config, _parameters(model))
    write_tensor_files(folder, arrays, dtype=dtype, max_shard_bytes=max_shard_bytes)
    try:
        write_json_atomically(folder / FILE, dict(config.values))
        write_atomically({folder / name: content for name, content in beside.items()})
    except BaseException:  # a full disk, a signal
        for path in [*folder.glob(f"*{SUFFIX}"), *(folder / name for name in (INDEX, FILE, *beside))]:
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def published_gradients(model: Transformer) -> dict[str, Any]:
    """The gradients of the last backward pass by published name, in the published layout; zero where there is none."""
    what = "experts" if _stored_experts(model) else "matrices" if _matrices(model) else None
    if what is not None:
        raise ValueError(f"the {what} of this model stay in their files and have no gradients; load it with a dtype")
    arrays = {}
    for name, tensor in _tensors(model).items():
        arrays[name] = np.zeros(tensor.shape, tensor.dtype) if tensor.grad is None else to_host(tensor.grad)
    return dict(published_arrays(_config_of(model), arrays))


def published_arrays(config: PublishedConfig, arrays: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Arrays of parameters and buffers, given by our names, by published name and in the published layout.

    Of a layer's experts, all arrays or none are given.
    """
    of: dict[str, list[Piece]] = {}
    for piece in config.pieces(arrays):
        of.setdefault(piece.published, []).append(piece)
    for name, pieces in of.items():
        like = arrays[pieces[0].ours]
        whole = np.empty(pieces[0].published_shape(like), like.dtype)
        for piece in pieces:
            array = arrays[piece.ours]
            for e in range(len(array)) if piece.expert == EACH else [piece.expert]:
                part = whole[piece.part(e)]
                part[...] = piece.entries(array, e).reshape(part.shape)
        yield name, whole


def _parameters(model: Transformer) -> dict[str, Any]:
    arrays = {name: to_host(tensor.data) for name, tensor in _tensors(model).items()}
    arrays |= {name: matrix.dequantise() for name, matrix in _matrices(model).items()}
    return arrays | {path + stack.name: stack for path, experts in _stored_experts(model) for stack in experts.stacks}


def _matrices(model: Transformer) -> dict[str, Matrix]:
    """Those that are stored in a format, by our names; without the output matrix of a tied model."""
    found = {f"{path}weight": m for path, m in model.named_modules() if isinstance(m, MatrixLinear) and m.num_stored}
    return {name: layer.matrix for name, layer in found.items()}


def _stored_experts(model: Transformer) -> list[tuple[str, StoredExperts]]:
    """Those that stay in their files, with the paths to them."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, StoredExperts)]


def _tensors(model: Transformer) -> dict[str, Any]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _config_of(model: Transformer) -> PublishedConfig:
    if not isinstance(model.config, PublishedConfig):
        raise TypeError(
            f"a {type(model.config).__name__} is not the configuration of a published model; convert it first"
        )
    return model.config.written()
