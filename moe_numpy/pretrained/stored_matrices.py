"""Experts in their files as matrices in the format they are stored in: what can be multiplied is not decoded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from ..formats import Matrix, Stack, quantise
from ..formats.float32 import Float32Matrix
from ..inference import MappedStore, StoreError
from ..inference.expert_tables import ExpertTable, ExpertTables
from ..inference.experts import ACTIVATIONS, StackedExperts, format_for, swiglu_of_halves
from ..typing import Array, Float, Int
from .errors import PretrainedError
from .expert_reading import LayerPieces, StoredLayer
from .pieces import Piece
from .quantised_experts import QuantisedPieces


@dataclass(frozen=True, eq=False)
class Parts:
    """One parameter [out, in] of an expert: its matrices, and which rows of it each one is; or one that was decoded."""

    shape: tuple[int, ...]
    parts: Sequence[tuple[slice, Matrix]]
    decoded: bool = False

    def product(self, x: Float[Array, "N in"]) -> Float[Array, "N out"]:
        """y_n = W x_n."""
        if len(self.parts) == 1:
            return self.parts[0][1].product(x)
        y = np.empty((len(x), self.shape[0]), np.float32)
        for rows, matrix in self.parts:
            y[:, rows] = matrix.product(x)
        return y

    def dequantise(self) -> Float[Array, "out in"]:
        """The weights in float32."""
        weights = np.empty(self.shape, np.float32)
        for rows, matrix in self.parts:
            weights[rows] = matrix.dequantise()
        return weights


class StoredMatrices:
    """The experts of one layer, read from a store when rows choose them.

    Args:
        reader: of the layer.
        kind: of expert.
        settings: of the kind.
    """

    def __init__(self, reader: StoredLayer, kind: str, settings: Mapping[str, float]):
        self.reader = reader
        (self.first, self.second), activation = ACTIVATIONS[kind]
        self.num_experts = reader.pieces.num_experts
        self.activation = partial(activation, **settings) if settings else activation
        self._views: dict[int, tuple[Mapping[str, Parts], Mapping[str, Array]]] = {}  # of mapped files

    def __call__(self, x: Float[Array, "N d"], experts: Int[Array, " N"]) -> Float[Array, "N d"]:
        """Each expert is read once. PretrainedError if that fails."""
        y, counts = np.empty_like(x), np.bincount(experts)
        for e, parts, vectors in self._each({e: n for e, n in enumerate(counts.tolist()) if n}):
            mine = np.flatnonzero(experts == e)
            h = self._product(self.first, parts, vectors, x[mine])
            y[mine] = self._product(self.second, parts, vectors, self.activation(h))
        return y

    def tables(self) -> ExpertTables | None:
        """Where the matrices are, mapped or in slots; None where one must be decoded first."""
        found: list[Any] = []
        store: Any = self.reader.store
        mapped = isinstance(store, MappedStore)
        for parts, vectors in self._mapped() if mapped else self._empty():
            if any(part.decoded for part in parts.values()) or (vectors and not mapped):
                return None
            found.append((parts, vectors))
        first, second = (
            _tables([parts[name] for parts, _ in found], [vectors.get(f"{name}_bias") for _, vectors in found])
            for name in (self.first, self.second)
        )
        if first is None or second is None:
            return None
        of = first, second, self.activation, self.activation is swiglu_of_halves
        if mapped:
            return ExpertTables(*of, before=(id(store), partial(_asked, store.require_unchanged)))
        fetch = partial(_asked, self._fetch, ((self.first, first), (self.second, second)), {})
        return ExpertTables(*of, fetch=fetch, most=store.num_slots)

    def _mapped(self) -> Iterator[tuple[Mapping[str, Parts], Mapping[str, Array]]]:
        return ((parts, vectors) for _, parts, vectors in self._each(dict.fromkeys(range(self.num_experts), 1)))

    def _empty(self) -> Iterator[tuple[Mapping[str, Parts], Mapping[str, Array]]]:
        """What all experts look like in slots, without reading any."""
        content = [_blank(each.nbytes) for each in self.reader.pieces.ranges(0)]
        return iter([matrices_of(self.reader.pieces, 0, content)] * self.num_experts)

    def _fetch(self, tables: Any, known: dict[int, int], experts: Int[Array, "..."]) -> None:
        """Have these in memory, all at once, and say where. Those of the call before are not in use any more.

        ``known``: where each was when it was last asked for.
        """
        self.reader.store.release()
        wanted = np.unique(experts).tolist()
        for e, content in zip(wanted, self.reader.store.get(self.reader.layer, wanted), strict=True):
            address = content[0].__array_interface__["data"][0]
            if known.get(e) == address:
                continue
            known[e] = address
            parts, _ = matrices_of(self.reader.pieces, e, content)
            for name, of in tables:
                for table, (_, matrix) in zip(of, sorted(parts[name].parts, key=_first_row), strict=True):
                    table.put(e, matrix)

    def stacked(self, format: str) -> StackedExperts:
        """The same experts in memory, in another format. ValueError for a weight that is not finite in it."""
        stacks: dict[str, tuple[type[Matrix], dict[str, Array]]] = {}
        biases: dict[str, Array] = {}
        for e, parts, vectors in self._each(dict.fromkeys(range(self.num_experts), 1)):
            for name, part in parts.items():
                matrix = quantise(part.dequantise(), format_for(part.shape[1], format))
                if name not in stacks:
                    room = {key: np.empty((self.num_experts, *a.shape), a.dtype) for key, a in matrix.arrays.items()}
                    stacks[name] = type(matrix), room
                for key, array in matrix.arrays.items():
                    stacks[name][1][key][e] = array
            for name, vector in vectors.items():
                biases.setdefault(name, np.empty((self.num_experts, *vector.shape), np.float32))[e] = vector
        first, second = (Stack(*stacks[name]) for name in (self.first, self.second))
        return StackedExperts(
            first, second, self.activation, [biases.get(f"{name}_bias") for name in (self.first, self.second)]
        )

    def _each(self, rows: Mapping[int, int]) -> Iterator[tuple[int, Mapping[str, Parts], Mapping[str, Array]]]:
        mapped = isinstance(self.reader.store, MappedStore)
        try:
            for e, content in self.reader.store.each(self.reader.layer, rows):
                found = self._views.get(e) or matrices_of(self.reader.pieces, e, content)
                if mapped and not any(part.decoded for part in found[0].values()):
                    self._views[e] = found
                yield e, *found
        except StoreError as error:
            raise PretrainedError(str(error)) from error

    def _product(self, name: str, parts: Mapping[str, Parts], vectors: Mapping[str, Array], x: Array) -> Array:
        y = parts[name].product(x)
        bias = vectors.get(f"{name}_bias")
        return y if bias is None else y + bias


def _tables(parameters: Sequence[Parts], biases: Sequence[Any]) -> list[ExpertTable] | None:
    """One parameter of all experts: a table for each of its matrices. None if they are not rows side by side."""
    slices = [rows for rows, _ in parameters[0].parts]
    if any([rows for rows, _ in each.parts] != slices for each in parameters):
        return None
    if any(rows.step not in (None, 1) for rows in slices) or (biases[0] is not None and len(slices) > 1):
        return None
    bias = None if biases[0] is None else np.stack(biases)
    ordered = [sorted(each.parts, key=_first_row) for each in parameters]
    return [ExpertTable([parts[i][1] for parts in ordered], ordered[0][i][0], bias) for i in range(len(slices))]


@cache
def _blank(nbytes: int) -> Array:
    return np.zeros(nbytes, np.uint8)


def _first_row(part: tuple[slice, Matrix]) -> int:
    return int(part[0].start)


def _asked(function: Callable[..., object], *arguments: Any) -> None:
    """PretrainedError where the store has an error of its own."""
    try:
        function(*arguments)
    except StoreError as error:
        raise PretrainedError(str(error)) from error


def matrices_of(
    pieces: LayerPieces | QuantisedPieces, expert: int, content: Sequence[np.ndarray]
) -> tuple[Mapping[str, Parts], Mapping[str, Array]]:
    """The parameters of an expert by our names: matrices, and vectors in float32.

    Matrices are views of ``content`` where a stored tensor holds whole rows of ours.
    """
    if isinstance(pieces, QuantisedPieces):
        matrices, biases = pieces.matrices(expert, content)
        return {name: Parts(m.shape, [(slice(0, m.shape[0]), m)]) for name, m in matrices.items()}, biases
    found: dict[str, list[tuple[slice, Matrix]]] = {}
    decoded: dict[str, Array] = {}
    for piece, raw in pieces.raw(expert, content):
        name, weights = piece.ours.rpartition(".experts.")[2], pieces.weights
        shape = pieces.shapes[name]
        matrix = weights.matrix(piece.published, raw) if len(shape) == 2 else None
        rows = None if matrix is None else _rows_of(piece, shape, weights.is_packed(piece.published))
        if matrix is not None and rows is not None:
            found.setdefault(name, []).append((rows, matrix))
            continue
        array = decoded.setdefault(name, np.empty(shape, np.float32))
        values = weights.decoded(piece.published, piece.part(expert), raw)
        weights.put(piece.view(array), piece.published, values)
    vectors = {name: array for name, array in decoded.items() if array.ndim == 1}
    of_views = {name: Parts(pieces.shapes[name], parts) for name, parts in found.items()}
    copies = {
        name: Parts(array.shape, [(slice(0, len(array)), Float32Matrix(array))], decoded=True)
        for name, array in decoded.items()
        if array.ndim == 2
    }
    return of_views | copies, vectors


def _rows_of(piece: Piece, shape: tuple[int, ...], transposed: bool) -> slice | None:
    """Which rows of our matrix a published one is; None if it is not whole rows in order."""
    ours = np.empty(shape, np.float32)
    view = piece.view(ours)
    view = view.swapaxes(-1, -2) if transposed else view
    if view.ndim != 2 or view.shape[1] != shape[1] or view.strides[1] != 4 or view.strides[0] % ours.strides[0]:
        return None
    start, rest = divmod(view.ctypes.data - ours.ctypes.data, ours.strides[0])
    step = view.strides[0] // ours.strides[0]
    return None if rest or step < 1 else slice(start, start + (len(view) - 1) * step + 1, step)
