"""Reading a checkpoint: its files are verified, then of each array all or some experts are read."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from .checkpoint_files import CheckpointError, Description, TensorFile, description_path


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run needs to continue: NumPy arrays by name, and ``meta``, plain JSON values."""

    step: int
    arrays: dict[str, Any]
    meta: dict[str, Any]


@dataclass(frozen=True, eq=False)
class StoredCheckpoint:
    """A checkpoint on the disk.

    Attributes:
        folder: where it is.
        description: what its JSON says.
        shapes: of all arrays, with the entries of all experts, by name.
    """

    folder: Path
    description: Description
    shapes: Mapping[str, tuple[int, ...]]

    def read(self, wanted: Mapping[str, Sequence[int]] | None = None) -> Checkpoint:
        """The arrays in memory.

        Args:
            wanted: of these arrays, the entries of these experts, ascending. Every other array is whole.

        Raises:
            CheckpointError: a file has gone or cannot be read.
        """
        wanted = wanted or {}
        shards_of = _shards_of(self.description)
        arrays: dict[str, Any] = {}
        with ExitStack() as held:
            paths = [self.folder / each.file for each in self.description.files]
            files = [held.enter_context(_opened(path)) for path in paths]
            where = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (not a mapping)
            for name, shape in self.shapes.items():
                if name in shards_of:
                    experts = wanted.get(name, range(shape[0]))
                    arrays[name] = _of_experts(name, experts, files, shards_of[name])
                elif name in wanted:
                    arrays[name] = _of_experts(name, wanted[name], [where[name]], [range(shape[0])])
                else:
                    arrays[name] = where[name].get_tensor(name)
        return Checkpoint(self.description.step, arrays, dict(self.description.meta))


def verify(folder: Path, step: int, rank: int = 0, num_ranks: int = 1) -> StoredCheckpoint:
    """The checkpoint of a step, if its files are those that were saved.

    Each of several ranks computes the SHA-256 of every ``num_ranks``-th file, from that of its own number on.

    Raises:
        CheckpointError: a file is missing, truncated, damaged or not of this format and version.
    """
    path = description_path(folder, step)
    description = Description.read(path)
    if description.step != step:
        raise CheckpointError(f"{path} describes step {description.step}, not the step of its name")
    shards_of = _shards_of(description)
    shapes: dict[str, tuple[int, ...]] = {}
    for number, each in enumerate(description.files):
        at = folder / each.file
        _require_as_saved(at, each, with_sum=number % num_ranks == rank)
        with _opened(at) as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        for name, shards in shards_of.items():
            if len(shards[number]) != (found[name][0] if found.get(name) else 0):
                raise CheckpointError(f"{at}: {name} should have entries for the experts {shards[number]} of {path}")
            if name in found:
                found[name] = (sum(map(len, shards)), *found[name][1:])
        shapes |= found
    return StoredCheckpoint(folder, description, shapes)


def _require_as_saved(path: Path, saved: TensorFile, with_sum: bool) -> None:
    with _naming(path):
        size = path.stat().st_size
        if size != saved.bytes:
            fault = "truncated" if size < saved.bytes else "not the file that was saved"
            raise CheckpointError(f"{path} has {size} bytes, {saved.bytes} were saved: it is {fault}")
        if with_sum and _sha256(path) != saved.sha256:
            raise CheckpointError(f"{path} does not have the SHA-256 it was saved with: it has changed since")


def _of_experts(name: str, experts: Sequence[int], files: Sequence[Any], shards: Sequence[Sequence[int]]) -> Any:
    """The entries of some experts, ascending, from files that have these experts each."""
    parts: list[Any] = []
    order: list[int] = []
    for file, held in zip(files, shards, strict=True):
        places = [i for i, e in enumerate(held) if e in experts]
        if held and (places or not parts):
            parts.append(_entries(file.get_slice(name), places))
            order += [held[i] for i in places]
    entries = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return entries if order == sorted(order) else entries[np.argsort(order)]


def _entries(stored: Any, places: Sequence[int]) -> Any:
    """These entries along the first axis, in one read for each run of neighbours."""
    ends = [i for i, place in enumerate(places, 1) if i == len(places) or places[i] != place + 1]
    runs = [stored[places[start] : places[end - 1] + 1] for start, end in zip([0, *ends], ends, strict=False)]
    return np.concatenate(runs) if len(runs) > 1 else runs[0] if runs else stored[0:0]


def _shards_of(description: Description) -> dict[str, list[list[int]]]:
    """Of each array with an entry for each expert, the experts in each file."""
    return {name: split.shards for split in description.experts for name in split.arrays}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file."""
    with _naming(path), safetensors.safe_open(path, "numpy") as file:
        yield file


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """CheckpointError with the path for whatever is wrong with a file."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
