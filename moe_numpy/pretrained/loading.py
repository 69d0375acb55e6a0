"""A transformer from the files of a published model: every tensor is used or skipped by name, none is guessed."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..autodiff.arrays import is_float
from ..formats import Matrix
from ..models import Transformer
from ..models.transformer_config import Sparse
from ..moe import MoE
from ..nn import MatrixLinear
from ..nn.module import Unfilled
from .config import PublishedConfig
from .errors import PretrainedError, quoted
from .expert_reading import LayerPieces, readers_of
from .pieces import EACH, Piece, as_it_is
from .quantisation import Quantisation
from .quantised import (
    Quantised,
    StoredMatrix,
    is_of_quantised,
    quantised_parameters,
    stored_matrices,
)
from .quantised_experts import QuantisedPieces
from .stored_experts import StoredExperts
from .tensor_files import TensorFiles
from .weights import Weights

_ROWS = 1024  # compared at a time


def from_pretrained(folder: str | os.PathLike, *, dtype: Any = None, memory: int | None = None) -> Transformer:
    """The model in a folder as published, or as ``quantize`` writes it: ``config.json`` and safetensors files.

    Args:
        folder: the folder.
        dtype: None maps the files: weights stay on the disk until they are used, activations are float32, and nothing
            can be trained. A floating-point type makes copies of that type, which can be trained; the output matrix of
            a quantised model that is tied is then its embedding, which was not quantised.
        memory: bytes for experts, which are then read from the disk when a token asks for them, and kept as long as
            they have room. None leaves it to the system which parts of the files are in memory.

    Raises:
        ValueError: memory is below what the experts of one token in one layer need, or comes with a dtype.
        PretrainedError: a file is missing or damaged, or a setting, a tensor, its shape or its type is not what the
            model's family has; the message names it.
    """
    if dtype is not None and not is_float(np.dtype(dtype)):
        raise TypeError(f"dtype must be a floating-point type, got {dtype}")
    if dtype is not None and memory is not None:
        raise ValueError("memory is for experts that stay in their files; a dtype makes copies of all weights")
    files = open_published_model(Path(folder))
    tensors = files.tensors
    if dtype is None:
        _map(files, memory)
    else:
        for name, parts in files.pieces.items():
            tensors[name].data = _filled(tensors[name].data, parts, files.weights, np.dtype(dtype))
        for name, stored in files.matrices.items():
            if name in tensors:  # the output matrix of a tied model is its embedding
                tensors[name].data = _decoded(tensors[name].data, stored, np.dtype(dtype))
    return files.model


@dataclass(frozen=True, eq=False)
class PublishedModel:
    """A published model whose files were checked and not yet read.

    Attributes:
        config: its settings.
        weights: as published.
        model: with shapes, and not yet any memory.
        pieces: of each parameter and buffer that is stored as published, by our name.
        quantised: those that are stored in a format.
        matrices: their tensors: one entry, or one for each expert.
    """

    config: PublishedConfig
    weights: Weights
    model: Transformer
    pieces: Mapping[str, list[Piece]]
    quantised: Mapping[str, Quantised]
    matrices: Mapping[str, list[StoredMatrix]]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the model by name."""
        return dict(self.model.named_parameters()) | dict(self.model.named_buffers())


def open_published_model(folder: Path) -> PublishedModel:
    """Check the files of a folder. PretrainedError as for :func:`from_pretrained`."""
    files = TensorFiles.open(folder)
    config = PublishedConfig.read(folder, files)
    formats, skipped = config.quantisation, config.skipped(files)
    known = {name: tensor for name, tensor in files.items() if name not in skipped}
    ours = {name: tensor for name, tensor in known.items() if formats is not None and is_of_quantised(name)}
    weights = Weights({name: tensor for name, tensor in known.items() if name not in ours}, config.fp8_block)
    try:
        model = Transformer(config, rng=Unfilled(), dtype=np.float32)  # sizes, and not yet any memory
    except (ValueError, OverflowError) as error:  # of a part: sizes that do not divide, and the like
        raise PretrainedError(f"{config.file}: {error}") from error
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    all_pieces: dict[str, list[Piece]] = {}
    for piece in config.pieces({name: tensor.data for name, tensor in tensors.items()}):
        all_pieces.setdefault(piece.ours, []).append(piece)
    quantised = quantised_parameters(model, all_pieces, formats or Quantisation(), config.family.output)
    matrices = stored_matrices(folder, ours, quantised)
    pieces = {name: of for name, of in all_pieces.items() if name not in quantised}
    _check(folder, weights, tensors, config, pieces)
    return PublishedModel(config, weights, model, pieces, quantised, matrices)


def _check(
    folder: Path,
    weights: Weights,
    tensors: Mapping[str, Tensor],
    config: PublishedConfig,
    pieces: Mapping[str, Sequence[Piece]],
) -> None:
    """PretrainedError if a tensor is missing, has another shape, or is no part of the model."""
    expected: set[str] = set()
    for piece in (piece for of in pieces.values() for piece in of):
        if piece.published not in weights:
            raise PretrainedError(f"{folder} lacks tensor {quoted(piece.published)}")
        shape = piece.published_shape(tensors[piece.ours].data)
        if weights.shape(piece.published) != shape:
            raise PretrainedError(
                f"{weights.file_of(piece.published)}: tensor {quoted(piece.published)} has shape "
                f"{list(weights.shape(piece.published))}, config.json makes it {list(shape)}"
            )
        expected.add(piece.published)
    output = config.family.output
    if config.transformer.tied and output in weights:
        _require_equal(weights, output, config.family.embedding)
        expected.add(output)
    left = [name for name in weights if name not in expected]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        where = weights.file_of(left[0])
        raise PretrainedError(f"{where}: tensor {quoted(left[0])}{more} is no part of a {config.model_type} model")


def _require_equal(weights: Weights, output: str, embedding: str) -> None:
    """PretrainedError if the output matrix of a tied model is stored too, and is not the embedding."""
    rows = weights.shape(output)[:1] + weights.shape(embedding)[:1]
    parts = [slice(start, start + _ROWS) for start in range(0, max(rows, default=0), _ROWS)]
    same = weights.shape(output) == weights.shape(embedding)
    if not same or not all(
        np.array_equal(weights.values(output, part), weights.values(embedding, part), equal_nan=True) for part in parts
    ):
        raise PretrainedError(
            f"{weights.file_of(output)}: tensor {quoted(output)} differs from {quoted(embedding)}, but "
            "tie_word_embeddings in config.json makes them one"
        )


def _filled(like: Any, parts: list[Piece], weights: Weights, dtype: np.dtype) -> Any:
    """An array of the shape of ``like`` with the values of all its pieces."""
    array = np.empty(like.shape, dtype)
    for piece in parts:
        for e in range(len(array)) if piece.expert == EACH else [piece.expert]:
            weights.put(piece.entries(array, e), piece.published, weights.values(piece.published, piece.part(e)))
    return array


def _decoded(like: Any, stored: Sequence[StoredMatrix], dtype: np.dtype) -> Any:
    """An array of the shape of ``like`` with the values of a quantised parameter."""
    array = np.empty(like.shape, dtype)
    for e, each in enumerate(stored):
        found = each.read()
        (array if like.shape == found.shape else array[e])[...] = found if each.format is None else found.dequantise()
    return array


def _map(files: PublishedModel, memory: int | None) -> None:
    """Weights become views of the files; experts are decoded one at a time, from a store."""
    model, tensors, weights = files.model, files.tensors, files.weights
    for name, parts in files.pieces.items():
        if ".experts." in name:
            continue
        (piece, *others) = parts
        tensor = tensors[name]
        if not others and piece.view is as_it_is and tensor.data.ndim > 1 and weights.is_mapped(piece.published):
            mapped = weights.mapped(piece.published)
            tensor.data = (mapped if piece.rows is None else mapped[piece.rows]).reshape(tensor.shape)
        else:
            tensor.data = _filled(tensor.data, parts, weights, np.dtype(np.float32))
    for name, stored in files.matrices.items():
        if ".experts." not in name:
            _replace(model, name.removesuffix(".weight"), stored[0].read())
    layers: dict[int, LayerPieces | QuantisedPieces] = {}
    at_once = 1
    for i, layer in enumerate(model.layers):
        part = model.parts.layers[i].feed_forward
        if isinstance(layer.feed_forward, MoE) and isinstance(part, Sparse):
            prefix = f"layers.{i}.feed_forward.experts."
            quantised = _below(prefix, files.matrices)
            of_experts = _below(prefix, files.pieces)
            shapes = {name: tensors[prefix + name].shape[1:] for name in of_experts}
            layers[i] = (
                QuantisedPieces(quantised) if quantised else LayerPieces(weights, of_experts, shapes, part.num_experts)
            )
            at_once = max(at_once, min(math.ceil(layer.feed_forward.router.per_token), part.num_experts))
    for i, reader in readers_of(layers, at_once, memory).items():
        sparse: Any = model.parts.layers[i].feed_forward
        sizes = sparse.num_experts, model.parts.d_model, sparse.d_ff
        experts = StoredExperts(sparse.recipe.experts, sizes, sparse.recipe.expert_settings, reader)
        model.layers[i].feed_forward.experts = experts
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.activations = np.float32
    model.eval()


def _below(prefix: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): of for name, of in found.items() if name.startswith(prefix)}


def _replace(model: Transformer, path: str, matrix: Matrix) -> None:
    """Put a layer with this matrix in the place of the linear layer at a path of attributes and indices."""
    *parents, name = path.split(".")
    at: Any = model
    for part in parents:
        at = at[int(part)] if part.isdecimal() else getattr(at, part)
    linear = getattr(at, name)  # None for the output matrix of a tied model
    bias = None if linear is None else linear.bias
    setattr(at, name, MatrixLinear(matrix, bias, counted=linear is not None))
