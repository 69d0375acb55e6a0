"""Writing tensors in the published layout: one safetensors file, or shards with an index.

The header of a file stands before its values and is complete only after them, so values go to a file of their own first
and are then copied behind it: memory holds one tensor, the disk one shard more than in the end.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..files import TEMPORARY_SUFFIX, naming, sync, sync_folder, write_atomically
from ..formats import bfloat16
from ..kernels import to_host
from .errors import PretrainedError, quoted
from .published_files import JSON_LIMIT
from .safetensors_file import METADATA, STORAGE, StoredTensor
from .tensor_files import INDEX, SINGLE, SUFFIX

_DTYPES = {np.dtype(storage).name: dtype for dtype, storage in STORAGE.items() if not dtype.startswith(("BF", "F8"))}
_DTYPES |= {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e8m0fnu": "F8_E8M0"}  # of the package ml_dtypes
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Bits:
    """A tensor by the bits of its values.

    Attributes:
        dtype: as files call it: "BF16".
        array: of the type in STORAGE.
    """

    dtype: str
    array: np.ndarray


def write_tensor_files(
    folder: str | os.PathLike,
    tensors: Iterable[tuple[str, Any]],
    *,
    dtype: Literal["BF16", "F32"] | None = None,
    max_shard_bytes: float = 5e9,
    metadata: Mapping[str, str] | None = None,
    in_order: Callable[[str], bool] = lambda name: False,
) -> None:
    """Write tensors as ``model.safetensors``, or as shards and ``model.safetensors.index.json``.

    Args:
        folder: made if it does not exist; holds no safetensors files yet.
        tensors: pairs of name and array, each taken once, in order: booleans, integers, floats, on any device, those of
            ml_dtypes too; or Bits or a StoredTensor, which are written as they are.
        dtype: how floats of 16 bits and more are stored. None leaves them; BF16 rounds to nearest.
        max_shard_bytes: of values in one file. A larger tensor has a file of its own.
        metadata: text beside the tensors; ``{"format": "pt"}`` if None, which transformers expects.
        in_order: whether a tensor of this name lies in its file in the order given, after those that do not.

    Raises:
        PretrainedError: the folder holds safetensors files, or a tensor has a name or type that cannot be written.
        OSError: the disk failed or is full; it names the file. As after any error, nothing that was written stays
            behind.
    """
    if max_shard_bytes <= 0:
        raise ValueError(f"max_shard_bytes must be positive, got {max_shard_bytes}")
    folder = Path(folder)
    metadata = {"format": "pt"} if metadata is None else metadata
    with _all_or_nothing(folder) as files:
        shards = [_Shard(folder, 1, files)]
        names: set[str] = set()
        for name, array in tensors:
            thing = f"{folder}: tensor {quoted(name)}"
            if name in names or name == METADATA or not _is_text(name):
                raise PretrainedError(f"{thing} {'comes twice' if name in names else 'cannot have this name'}")
            names.add(name)
            stored, values = _as_stored(array, dtype, thing)
            if shards[-1].bytes and shards[-1].bytes + values.nbytes > max_shard_bytes:
                shards[-1].finish(metadata, in_order)
                shards.append(_Shard(folder, len(shards) + 1, files))
            shards[-1].add(name, stored, values)
            del array, values  # before the next is made
        shards[-1].finish(metadata, in_order)
        _publish(folder, shards, files)


class _Shard:
    """A file on its way: the values of its tensors, in a file of their own until all are there."""

    def __init__(self, folder: Path, number: int, files: list[Path]):
        self.path = folder / f"model-{number:05d}{SUFFIX}{TEMPORARY_SUFFIX}"
        self.values = folder / f"model-{number:05d}.values{TEMPORARY_SUFFIX}"
        self.entries: list[tuple[str, str, tuple[int, ...], int, int]] = []  # name, type, shape, begin, end
        self.bytes = 0
        files += [self.path, self.values]

    def add(self, name: str, stored: str, values: np.ndarray) -> None:
        with naming(self.values), open(self.values, "ab" if self.entries else "wb") as file:
            file.write(values.reshape(-1).view(np.uint8).data)
        self.entries.append((name, stored, values.shape, self.bytes, self.bytes + values.nbytes))
        self.bytes += values.nbytes

    def finish(self, metadata: Mapping[str, str], in_order: Callable[[str], bool]) -> None:
        """Write the file. Wider types come first, so that every tensor is aligned, but for those in order."""
        self.entries.sort(key=lambda e: (1, 0) if in_order(e[0]) else (0, -np.dtype(STORAGE[e[1]]).itemsize))
        with naming(self.path), open(self.path, "wb") as file:
            file.write(self._header(metadata))
            if self.entries:
                with open(self.values, "rb") as values:
                    for *_, begin, end in self.entries:
                        values.seek(begin)
                        for start in range(begin, end, _CHUNK):
                            file.write(values.read(min(_CHUNK, end - start)))
        sync(self.path)
        self.values.unlink(missing_ok=True)

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        header: dict[str, Any] = {METADATA: dict(metadata)}
        offset = 0
        for name, stored, shape, begin, end in self.entries:
            header[name] = {"dtype": stored, "shape": shape, "data_offsets": [offset, offset + end - begin]}
            offset += end - begin
        content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        content += b" " * (-len(content) % 8)
        if len(content) > JSON_LIMIT:
            raise PretrainedError(f"{self.path}: its header would have {len(content):,} bytes, above {JSON_LIMIT:,}")
        return len(content).to_bytes(8, "little") + content


def _as_stored(array: Any, dtype: str | None, thing: str) -> tuple[str, np.ndarray]:
    """How an array is called in the file, and its bits in row-major order."""
    if isinstance(array, StoredTensor):
        return array.dtype, array.raw
    if isinstance(array, Bits):
        return array.dtype, np.ascontiguousarray(array.array)
    array = np.asarray(to_host(array))
    stored = _DTYPES.get(array.dtype.name)
    if stored is None:
        raise PretrainedError(f"{thing} has dtype {array.dtype}, expected one of {', '.join(_DTYPES)}")
    if dtype not in (None, stored) and stored in ("F64", "F32", "F16", "BF16"):
        try:
            with np.errstate(over="raise", under="ignore", invalid="ignore"):
                array = array.astype(np.float32)
        except FloatingPointError as error:
            raise PretrainedError(f"{thing} has a value beyond the largest of float32") from error
        array, stored = (bfloat16.encode(array), "BF16") if dtype == "BF16" else (array, "F32")
    storage = np.dtype(STORAGE[stored])
    native = array.dtype.name == storage.name
    return stored, np.asarray(array.astype(storage, copy=False) if native else array.view(storage), order="C")


def _is_text(name: str) -> bool:
    """Whether UTF-8 has the name: half a surrogate pair it has not."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _publish(folder: Path, shards: list[_Shard], files: list[Path]) -> None:
    """Give the files their names. The index comes last: without it, shards are not a model."""
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}{SUFFIX}"
        weight_map |= {entry[0]: name for entry in shard.entries}
        files.append(folder / name)
        with naming(folder / name):
            os.replace(shard.path, folder / name)
    if len(shards) > 1:
        total = sum(shard.bytes for shard in shards)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        files.append(folder / INDEX)
        write_atomically({folder / INDEX: json.dumps(index, indent=2, ensure_ascii=False) + "\n"})
    sync_folder(folder)


@contextlib.contextmanager
def _all_or_nothing(folder: Path) -> Iterator[list[Path]]:
    """A list of files, which are deleted if the block fails, with the folders that were made for them."""
    files: list[Path] = []
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted(path.name for path in folder.iterdir() if path.name.endswith((SUFFIX, INDEX)))
        if present:
            raise PretrainedError(f"{folder / present[0]} exists: choose another folder, or delete it")
        yield files
    except BaseException:  # a full disk, a signal
        for path in files:
            with contextlib.suppress(OSError):
                path.unlink()
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
