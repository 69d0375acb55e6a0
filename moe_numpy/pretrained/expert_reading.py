"""From the bytes of an expert in a store to its parameters."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..inference import ByteRange, ExpertStore, MappedStore, SlotStore, StoreError
from ..typing import Array, Float
from .errors import PretrainedError
from .pieces import EACH, Piece
from .quantised_experts import QuantisedPieces
from .weights import Weights

Matrices = Mapping[str, Float[Array, "..."]]


@dataclass(frozen=True, eq=False)
class LayerPieces:
    """The experts of one layer as published.

    Attributes:
        weights: of the folder.
        pieces: by our name of a parameter.
        shapes: of one expert's part, by the same name.
        num_experts: E.
    """

    weights: Weights
    pieces: Mapping[str, Sequence[Piece]]
    shapes: Mapping[str, tuple[int, ...]]
    num_experts: int
    _of: dict[int, list[Piece]] = field(init=False)

    def __post_init__(self) -> None:
        of = defaultdict(list)
        for pieces in self.pieces.values():
            for piece in pieces:
                for e in range(self.num_experts) if piece.expert == EACH else [piece.expert]:
                    of[e].append(piece)
        object.__setattr__(self, "_of", of)

    def ranges(self, expert: int) -> list[ByteRange]:
        """Where the bytes of an expert are, in the order in which :meth:`decoded` takes them."""
        stored = [of for piece in self._of[expert] for of in self.weights.stored(piece.published, piece.part(expert))]
        return [ByteRange(tensor.file, *tensor.range_of(part)) for tensor, part in stored]

    def decoded(self, expert: int, content: Sequence[np.ndarray]) -> dict[str, Any]:
        """The parameters of an expert by our names, in float32."""
        arrays = {name: np.empty(shape, np.float32) for name, shape in self.shapes.items()}
        for piece, raw in self.raw(expert, content):
            view = piece.view(arrays[piece.ours.rpartition(".experts.")[2]])
            name = piece.published
            self.weights.put(view, name, self.weights.decoded(name, piece.part(expert), raw))
        return arrays

    def raw(self, expert: int, content: Sequence[np.ndarray]) -> Iterator[tuple[Piece, list[np.ndarray]]]:
        """The pieces of an expert, each with the stored bits of its tensors: views of the bytes."""
        left = iter(content)
        for piece in self._of[expert]:
            stored = self.weights.stored(piece.published, piece.part(expert))
            yield piece, [tensor.from_bytes(next(left), part) for tensor, part in stored]


class StoredLayer:
    """The experts of one layer, read from a store and decoded.

    Args:
        store: of the whole model.
        layer: the number in it.
        pieces: of this layer.
    """

    def __init__(self, store: ExpertStore, layer: int, pieces: LayerPieces | QuantisedPieces):
        self.store, self.layer, self.pieces = store, layer, pieces

    def read(self, expert: int) -> Matrices:
        """The parameters of one expert by name, in float32."""
        return next(matrices for _, matrices in self.each({expert: 1}))

    def each(self, rows: Mapping[int, int]) -> Iterator[tuple[int, Matrices]]:
        """Those of several, with their numbers, in the order that suits the store.

        Args:
            rows: how many tokens chose each.

        Raises:
            PretrainedError: reading failed, or a file has changed.
        """
        try:
            for e, content in self.store.each(self.layer, rows):
                yield e, self.pieces.decoded(e, content)
        except StoreError as error:
            raise PretrainedError(str(error)) from error


def readers_of(
    layers: Mapping[int, LayerPieces | QuantisedPieces], at_once: int, memory: int | None
) -> dict[int, StoredLayer]:
    """One store for all layers, and a reader for each.

    Args:
        layers: by number.
        at_once: experts that a token uses in one layer at most.
        memory: bytes for experts; None maps the files.

    Raises:
        ValueError: memory is below what ``at_once`` experts need.
    """
    if not layers:
        if memory is not None:
            raise ValueError("memory is for experts, and this model is dense")
        return {}
    ranges = {(i, e): pieces.ranges(e) for i, pieces in layers.items() for e in range(pieces.num_experts)}
    try:
        store = MappedStore(ranges) if memory is None else SlotStore(ranges, memory, at_once=at_once)
    except StoreError as error:
        raise PretrainedError(str(error)) from error
    return {i: StoredLayer(store, i, pieces) for i, pieces in layers.items()}
