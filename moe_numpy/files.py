"""Files that a crash at any moment leaves either old or new, never half; and reading them back by type.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed over the old one.
A file of JSON lines grows by one line per record instead; a crash can tear the last line, which readers leave out.
"""

import contextlib
import errno
import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

TEMPORARY_SUFFIX = ".tmp"
_CHECKSUM = "checksum"


def read_regular(path: Path) -> bytes:
    """The bytes of a file. OSError for a pipe or a device, which could last for ever, or for more than memory holds."""
    status = os.stat(path)
    _require_regular(path, status.st_mode)
    try:
        return path.read_bytes()
    except MemoryError:
        raise OSError(errno.ENOMEM, f"has {status.st_size:,} bytes, more than memory holds", str(path)) from None


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values and, under ``"checksum"``, the CRC-32 of them, which readers compare."""
    return {**values, _CHECKSUM: _crc32(values)}


def read_json(path: Path, type: Any) -> Any:
    """The JSON of a file as a value of this type.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not JSON, of another type, or not what its checksum was taken of; the message names the file
            and the entry.
    """
    return _decoded(read_regular(path), type, f"{path} is truncated or damaged")


def write_json_atomically(path: Path, value: Any) -> None:
    """Write a value as JSON in place of whatever ``path`` holds. Arrays become lists, array scalars numbers.

    Raises:
        TypeError: the value holds something that JSON cannot.
        ValueError: it holds NaN or infinity.
        OSError: the disk failed or is full; it names the file. The old content is unchanged.
    """
    write_atomically({path: _dumps(value, indent=2) + "\n"})


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Add one record as a line of JSON; errors as for :func:`write_json_atomically`."""
    line = _dumps(record) + "\n"
    _require_no_device(path)
    with naming(path), open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(line)


def read_jsonl(path: Path, type: Any = dict[str, Any]) -> list[Any]:
    """All records as values of this type, in order; without the last if a crash tore it.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: another line is not JSON, or a line is of another type or not what its checksum was taken of; the
            message names it.
    """
    *lines, torn = read_regular(path).split(b"\n")
    records = [_decoded(line, type, f"{path}, line {number}, is not JSON") for number, line in enumerate(lines, 1)]
    with contextlib.suppress(ValueError):
        records.append(_decoded(torn, type, ""))
    return records


def truncate_history(path: Path, step: int) -> None:
    """Keep the records whose ``"step"`` is at most ``step``, so that a resumed run writes each step once.

    A missing file stays missing.
    """
    if path.exists():
        kept = [record for record in read_jsonl(path) if record["step"] <= step]
        write_atomically({path: "".join(_dumps(record) + "\n" for record in kept)})


def write_atomically(contents: Mapping[Path, str | bytes]) -> None:
    """Write files in place of what they hold: all are complete before the first is renamed, in order.

    A link stays; the file that it leads to is written.

    Raises:
        OSError: the disk failed or is full, or there is a pipe or a device; it names the file. Nothing half-written
            stays behind.
    """
    places = {path: Path(os.path.realpath(path)) for path in contents}
    for path in contents:
        _require_no_device(path)
    try:
        for path, content in contents.items():
            with naming(path):
                if isinstance(content, bytes):
                    _temporary(places[path]).write_bytes(content)
                else:
                    _temporary(places[path]).write_text(content, encoding="utf-8", newline="\n")
        for path, place in places.items():
            sync(path, _temporary(place))
        for path, place in places.items():
            with naming(path):
                os.replace(_temporary(place), place)
            sync_folder(place.parent)
    except BaseException:  # a full disk, a signal
        for place in places.values():
            with contextlib.suppress(OSError):
                _temporary(place).unlink()
        raise


def _require_no_device(path: Path) -> None:
    """OSError for a pipe or a device: writing to it could last for ever, and renaming a file over it takes it away."""
    with contextlib.suppress(FileNotFoundError):
        _require_regular(path, os.stat(path).st_mode)


def _require_regular(path: Path, mode: int) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder has errors of its own
        raise OSError(errno.EINVAL, "is not a regular file", str(path))


def sync(path: Path, written: Path | None = None) -> None:
    """Flush a file to the disk; ``written`` is the name it has now, if another."""
    with naming(path), open(written or path, "rb+") as file:
        os.fsync(file.fileno())


def _temporary(path: Path) -> Path:
    """The temporary name of a file. What a crash left there is overwritten."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A write that fails, on a full disk for instance, does not know its file: the error gets the name."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Flush the renaming itself to the disk, where the system can (Windows cannot)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _decoded(content: bytes, type: Any, complaint: str) -> Any:
    """ValueError with the complaint, or that an entry is malformed in what the complaint names."""
    try:
        decoded = msgspec.json.decode(content, type=type)
        if _CHECKSUM.encode() in content:
            values = msgspec.json.decode(content)
            if isinstance(values, dict) and values.pop(_CHECKSUM, None) not in (None, _crc32(values)):
                raise msgspec.ValidationError("it is not what its checksum was taken of")
        return decoded
    except msgspec.ValidationError as error:
        where = complaint.rpartition(" is ")[0]
        raise ValueError(f"{where} is damaged, an entry is missing or malformed: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{complaint}: {error}") from error


def _crc32(values: Mapping[str, Any]) -> int:
    return zlib.crc32(_dumps(values).encode())


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")
