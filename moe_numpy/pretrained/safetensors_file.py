"""One safetensors file, mapped: nothing is read but its header, and nothing is copied.

    8 bytes      length n of the header, little-endian
    n bytes      JSON: {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
    the rest     the values of the tensors, back to back, little-endian, in row-major order

The safetensors library copies each tensor that it gives to NumPy, and refuses FP8. So the header is read here, by the
same rules: known types, no names twice, and tensors that fill the rest without holes or overlaps.

A mapped file must not be made shorter while its tensors are in use: the system would end the process (SIGBUS). A file
that is shorter already when a tensor is taken gives an error instead.

Source: the safetensors format, https://github.com/huggingface/safetensors, section "Format".
"""

import math
import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from ..formats import bfloat16
from ..typing import Array, Float
from .errors import PretrainedError, quoted
from .published_files import JSON_LIMIT, decode_json, open_published, refuse_repeated_names

METADATA = "__metadata__"
STORAGE = {  # the NumPy type of the bits of each stored type
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "|u1", "F8_E8M0": "|u1"},
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
    "BOOL": "|b1",
}
_LENGTH = 8
_MAX_DIMENSIONS = 64  # NumPy's

_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the header says of a tensor."""

    dtype: str
    shape: tuple[_Natural, ...]
    data_offsets: tuple[_Natural, _Natural]


@dataclass(frozen=True, eq=False, slots=True)
class StoredTensor:
    """A tensor in a mapped file."""

    name: str
    dtype: str  # as the file calls it: "BF16"
    shape: tuple[int, ...]
    file: Path
    _mapping: mmap.mmap = field(repr=False)
    _offset: int = field(repr=False)

    @property
    def raw(self) -> np.ndarray:
        """The stored bits, a read-only view of the file.

        Integers, F16, F32 and F64 have their own NumPy type. BF16 is uint16, F8_E4M3 and F8_E8M0 are uint8, whatever is
        installed: ``moe_numpy.formats`` has their values. Views need not be aligned.
        """
        storage = np.dtype(STORAGE[self.dtype])
        if self._mapping.size() < self._offset + math.prod(self.shape) * storage.itemsize:
            raise PretrainedError(f"{self.file} has been truncated since it was opened")
        return np.ndarray(self.shape, storage, self._mapping, self._offset)

    def range_of(self, part: Any = ...) -> tuple[int, int]:
        """The offset in the file and the number of bytes of a part: ``...``, an index or a slice of the first axis."""
        itemsize = np.dtype(STORAGE[self.dtype]).itemsize
        if part is ...:
            return self._offset, math.prod(self.shape) * itemsize
        row = math.prod(self.shape[1:]) * itemsize
        start, stop, _ = part.indices(self.shape[0]) if isinstance(part, slice) else (part, part + 1, 1)
        return self._offset + start * row, (stop - start) * row

    def from_bytes(self, content: np.ndarray, part: Any = ...) -> np.ndarray:
        """The stored bits of a part, a view of its bytes."""
        if part is ...:
            shape = self.shape
        elif isinstance(part, slice):
            shape = (len(range(*part.indices(self.shape[0]))), *self.shape[1:])
        else:
            shape = self.shape[1:]
        return content.view(STORAGE[self.dtype]).reshape(shape)

    def float32(self, part: Any = ...) -> Float[Array, "..."]:
        """The values in a new array, or those of a part: an index or a slice of the first axis.

        Raises:
            PretrainedError: the type is not F64, F32, F16 or BF16. Integers, and FP8 without its scales, are no values
                of weights. Or an F64 is beyond float32.
        """
        return self.to_float32(self.raw[part])

    def to_float32(self, raw: np.ndarray) -> Float[Array, "..."]:
        """The values of stored bits of this tensor; errors as for :meth:`float32`."""
        if self.dtype == "BF16":
            return bfloat16.decode(raw)
        thing = f"{self.file}: tensor {quoted(self.name)}"
        if raw.dtype.kind != "f":
            raise PretrainedError(
                f"{thing} is {self.dtype}, which has no values of its own: expected F64, F32, F16, BF16"
            )
        try:
            with np.errstate(over="raise", under="ignore", invalid="ignore"):
                return raw.astype(np.float32, order="C")
        except FloatingPointError as error:
            raise PretrainedError(f"{thing} is F64 with a value beyond the largest of float32") from error


def map_tensors(path: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file, in the order of their values.

    Raises:
        PretrainedError: there is no such file, it cannot be read, or its header does not fit it.
    """
    with open_published(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH), "little")
        if length > size - _LENGTH:
            raise PretrainedError(
                f"{path} has {size:,} bytes, but its header would have {length:,}: truncated, or not a safetensors file"
            )
        if length > JSON_LIMIT:
            raise PretrainedError(f"{path}: its header has {length:,} bytes, above the limit of {JSON_LIMIT:,}")
        mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    start = _LENGTH + length
    entries = _read_header(path, mapping[_LENGTH:start])
    ordered = sorted(entries.items(), key=lambda item: item[1].data_offsets)
    _check(path, ordered, size - start)
    return [
        StoredTensor(name, entry.dtype, entry.shape, path, mapping, start + entry.data_offsets[0])
        for name, entry in ordered
    ]


def _read_header(path: Path, content: bytes) -> dict[str, _Entry]:
    what = f"{path}: its header"
    header = decode_json(content, dict[str, msgspec.Raw], what)
    if METADATA in header:
        decode_json(header.pop(METADATA), dict[str, str], f"{what}: {METADATA}")
    entries = {name: decode_json(raw, _Entry, f"{path}: tensor {quoted(name)}") for name, raw in header.items()}
    refuse_repeated_names(content, what)
    return entries


def _check(path: Path, ordered: list[tuple[str, _Entry]], available: int) -> None:
    """PretrainedError unless these tensors fill the bytes after the header exactly."""
    end, before = 0, "the header"
    for name, entry in ordered:
        thing = f"{path}: tensor {quoted(name)}"
        first, last = entry.data_offsets
        if entry.dtype not in STORAGE:
            raise PretrainedError(f"{thing} has dtype {quoted(entry.dtype)}, expected one of {', '.join(STORAGE)}")
        if last > available:
            raise PretrainedError(f"{thing} ends at byte {last:,} of the values, the file has {available:,}: truncated")
        if first != end:
            fault = "overlaps" if first < end else "leaves unused bytes after"
            raise PretrainedError(f"{thing} begins at byte {first:,}, expected {end:,}: it {fault} {before}")
        itemsize = np.dtype(STORAGE[entry.dtype]).itemsize
        nonempty = [length for length in entry.shape if length]
        if len(entry.shape) > _MAX_DIMENSIONS or math.prod(nonempty) * itemsize >= 2**63:
            raise PretrainedError(f"{thing} has an impossible shape of {len(entry.shape)} axes")
        needed = math.prod(entry.shape) * itemsize
        if needed != last - first:
            raise PretrainedError(
                f"{thing} of shape {list(entry.shape)} in {entry.dtype} needs {needed:,} bytes, has {last - first:,}"
            )
        end, before = last, f"tensor {quoted(name)}"
    if end != available:
        raise PretrainedError(f"{path} has {available - end:,} bytes after its last tensor: not the file it was")
