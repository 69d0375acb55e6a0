"""Writing a published model with its matrices in number formats, one matrix in memory at a time.

The bits are those that :class:`moe_numpy.inference.Decoder` makes of the same model in the same formats.
"""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomically, write_json_atomically
from ..formats import FORMATS, Matrix, quantise
from ..typing import Array, Float
from .chat import MORE
from .config import FILE
from .errors import PretrainedError, quoted
from .loading import PublishedModel, open_published_model
from .new_folder import renamed_at_the_end, require_free, require_room
from .pieces import EACH, Piece
from .quantisation import Quantisation
from .quantised import EXPERTS, Quantised, is_of_quantised, nbytes, quantised_parameters
from .small_files import TEXT_LIMIT, read_bytes
from .tensor_writing import Bits, write_tensor_files
from .text_files import text_files

KEPT = "as published"
_ROWS = 128  # of a matrix, compared at a time: they stay in the cache
_HEADERS = 1 << 20  # bytes: config.json, and a file's header for each of 1,000 tensors


@dataclass
class Share:
    """What became of some of a model's weights.

    Attributes:
        kind: experts, rest, or what is as published.
        format: of FORMATS; None as published.
        parameters: how many numbers.
        matrices: how many, those of experts one by one.
        bytes_before: as they were stored.
        bytes_after: as they are.
        error: the largest ‖W - Ŵ‖ / ‖W‖ of a matrix W that became Ŵ, in the Frobenius norm.
        worst: the name of that matrix.
    """

    kind: str
    format: str | None
    parameters: int = 0
    matrices: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    error: float = 0.0
    worst: str | None = None

    @property
    def bits_per_weight(self) -> float:
        """8 bytes_after / parameters."""
        return 8 * self.bytes_after / max(self.parameters, 1)

    def met(self, name: str, error: float) -> None:
        """Count one matrix."""
        self.matrices += 1
        if self.worst is None or error > self.error:
            self.error, self.worst = error, name


@dataclass(frozen=True, eq=False)
class Plan:
    """A model to quantise, and where each of its parameters goes.

    Attributes:
        files: of the published model.
        formats: to store it in.
        quantised: what is stored in a format, by our names.
        kept: the published names of tensors that stay as they are.
    """

    files: PublishedModel
    formats: Quantisation
    quantised: dict[str, Quantised]
    kept: list[str]

    @property
    def num_weights(self) -> int:
        """Numbers to read, for who shows progress."""
        of_matrices = sum(len(of.names) * int(np.prod(of.shape)) for of in self.quantised.values())
        return of_matrices + sum(int(np.prod(self.files.weights.shape(name))) for name in self.kept)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors to write."""
        made = sum(len(of.names) * nbytes(of.arrays) for of in self.quantised.values())
        return made + sum(stored_bytes(self.files, name) for name in self.kept)

    def narrow(self) -> list[str]:
        """The matrices that do not fit their format and are in bfloat16."""
        asked = {EXPERTS: self.formats.experts}
        return [
            name
            for of in self.quantised.values()
            for name in of.names
            if of.format is not None and of.format != asked.get(of.kind, self.formats.rest)
        ]


def plan(folder: Path, formats: Quantisation) -> Plan:
    """What to write for the model in a folder.

    Raises:
        ValueError: an unknown format, none at all, or one of experts for a dense model.
        PretrainedError: as for :func:`moe_numpy.pretrained.from_pretrained`, or the model is quantised already.
    """
    for format in (formats.experts, formats.rest):
        if format not in (None, *FORMATS):
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if formats == Quantisation():
        raise ValueError(f"no format is given: expected one of {', '.join(FORMATS)} for the experts, the rest, or both")
    files = open_published_model(folder)
    if files.config.quantisation is not None:
        raise PretrainedError(
            f"{folder} is quantised already ({files.config.quantisation}): quantise the model that it was made from"
        )
    if formats.experts is not None and not files.config.num_experts:
        raise ValueError(f"{folder} is dense: it has no experts to store in {formats.experts}")
    quantised = quantised_parameters(files.model, files.pieces, formats, files.config.family.output)
    kept = [piece.published for name, of in files.pieces.items() if name not in quantised for piece in of]
    return Plan(files, formats, quantised, list(dict.fromkeys(kept)))


def write_quantised(
    source: Path,
    planned: Plan,
    out: Path,
    *,
    max_shard_bytes: float = 5e9,
    progress: Callable[[int], None] = lambda weights: None,
) -> list[Share]:
    """Write a planned model into a folder that does not exist, or is empty.

    Everything is written beside it first, so that nothing half-written is ever there.

    Args:
        source: the folder of the model, whose files about text are copied.
        planned: what to write.
        out: where.
        max_shard_bytes: of weights in one file.
        progress: called with the weights that are done.

    Raises:
        FileExistsError: something is there.
        PretrainedError: a weight is not finite in its format, or a file cannot be read.
        OSError: the disk failed or is full, or has too little room to begin with.
    """
    require_free(out)
    beside = _text_files(source)
    needed = planned.num_bytes + min(planned.num_bytes, int(min(max_shard_bytes, 2**62)))  # one file is written twice
    needed += sum(map(len, beside.values())) + _HEADERS
    require_room(out, needed)
    out = Path(os.path.realpath(out))
    shares: defaultdict[tuple[str, str | None], Share] = defaultdict(lambda: Share(KEPT, None))
    with renamed_at_the_end(out) as folder:
        tensors = _tensors(planned, shares, progress)
        write_tensor_files(folder, tensors, max_shard_bytes=max_shard_bytes, in_order=is_of_quantised)
        for path in {(folder / name).parent for name in beside}:
            path.mkdir(exist_ok=True)
        write_atomically({folder / name: content for name, content in beside.items()})
        write_json_atomically(folder / FILE, planned.files.config.quantised(planned.formats))
    return sorted(shares.values(), key=lambda share: -share.parameters)


def stored_bytes(files: PublishedModel, name: str, part: Any = ...) -> int:
    """Bytes of a published weight, scales included."""
    return sum(tensor.range_of(of)[1] for tensor, of in files.weights.stored(name, part))


def relative_error(weights: Float[Array, "out in"], matrix: Matrix) -> float:
    """‖W - Ŵ‖ / ‖W‖ in the Frobenius norm; 0 for a matrix of zeros."""
    off = of = 0.0
    _, exponent = np.frexp(np.abs(weights).max())
    for start in range(0, len(weights), _ROWS):
        both = weights[start : start + _ROWS], matrix.rows(start, start + _ROWS).dequantise()
        exact, stored = (np.ldexp(each, -exponent).reshape(-1) for each in both)  # so that no square overflows
        stored -= exact
        off, of = off + float(stored @ stored), of + float(exact @ exact)
    return math.sqrt(off / of) if of else 0.0


def _tensors(
    planned: Plan, shares: defaultdict[tuple[str, str | None], Share], progress: Callable[[int], None]
) -> Iterator[tuple[str, Any]]:
    """Everything to write, in order; experts one after the other."""
    files, done = planned.files, 0
    share = shares[KEPT, None]
    for name in planned.kept:
        for tensor, _ in files.weights.stored(name):
            yield tensor.name, tensor
        size = int(np.prod(files.weights.shape(name)))
        share.parameters += size
        share.bytes_before += stored_bytes(files, name)
        share.bytes_after += stored_bytes(files, name)
        done += size
        progress(done)
    for group in _groups(planned.quantised):
        parts = {ours: _by_expert(files, ours, of) for ours, of in group.items()}
        for e in range(len(next(iter(group.values())).names)):
            for ours, of in group.items():
                share = shares[of.kind, of.format]
                share.kind, share.format = of.kind, of.format
                yield from _of_one(files, of, e, parts[ours][e], share)
                done += int(np.prod(of.shape))
                progress(done)


def _groups(quantised: dict[str, Quantised]) -> Iterable[dict[str, Quantised]]:
    """Matrices one by one, but the parameters of a layer's experts together."""
    of_layer: defaultdict[str, dict[str, Quantised]] = defaultdict(dict)
    for ours, of in quantised.items():
        of_layer[ours.partition(".experts.")[0] if of.kind == EXPERTS else ours][ours] = of
    return of_layer.values()


def _by_expert(files: PublishedModel, ours: str, of: Quantised) -> list[list[Piece]]:
    """The pieces of a parameter, or those of each expert."""
    if of.kind != EXPERTS:
        return [files.pieces["embedding.weight" if ours not in files.pieces else ours]]
    found: list[list[Piece]] = [[] for _ in of.names]
    for piece in files.pieces[ours]:
        for e in range(len(found)) if piece.expert == EACH else [piece.expert]:
            found[e].append(piece)  # type: ignore[index]
    return found


def _of_one(
    files: PublishedModel, of: Quantised, e: int, pieces: list[Piece], share: Share
) -> Iterator[tuple[str, Any]]:
    """The tensors of a matrix, or of one expert's."""
    weights, name = np.empty(of.shape, np.float32), of.names[e]
    for piece in pieces:
        part = piece.part(e)
        files.weights.put(piece.view(weights), piece.published, files.weights.values(piece.published, part))
        share.bytes_before += stored_bytes(files, piece.published, part)
    share.parameters += weights.size
    share.bytes_after += nbytes(of.arrays)
    if of.format is None:
        yield f"{name}.values", weights
        return
    try:
        matrix = quantise(weights, of.format)
    except ValueError as error:
        first = pieces[0].published
        raise PretrainedError(f"{files.weights.file_of(first)}: tensor {quoted(first)}: {error}") from error
    share.met(name, relative_error(weights, matrix))
    del weights
    for suffix, (dtype, _) in of.arrays.items():
        yield f"{name}.{suffix}", Bits(dtype, matrix.arrays[suffix])


def _text_files(folder: Path) -> dict[str, bytes]:
    """The files about text, further chat templates included, by their paths in the folder."""
    more = {f"{MORE}/{path.name}": read_bytes(path, TEXT_LIMIT) for path in sorted((folder / MORE).glob("*.jinja"))}
    return text_files(folder) | more
