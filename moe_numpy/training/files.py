"""Files that a crash at any moment leaves either old or new, never half.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed over the old one.
A file of JSON lines grows by one line per record instead; a crash can tear the last line, which readers leave out.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".tmp"


def write_json_atomically(path: Path, value: Any) -> None:
    """Write a value as JSON in place of whatever ``path`` holds. Arrays become lists, array scalars numbers.

    Raises:
        TypeError: the value holds something that JSON cannot.
        ValueError: it holds NaN or infinity.
    """
    _write_atomically(path, _dumps(value, indent=2) + "\n")


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Add one record as a line of JSON; errors as for :func:`write_json_atomically`."""
    line = _dumps(record) + "\n"
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(line)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All records, in order; without the last if a crash tore it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another line is not JSON; the message names it.
    """
    *lines, torn = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is not JSON: {error}") from error
    with contextlib.suppress(ValueError):
        records.append(json.loads(torn))
    return records


def truncate_history(path: Path, step: int) -> None:
    """Keep the records whose ``"step"`` is at most ``step``, so that a resumed run writes each step once.

    A missing file stays missing.
    """
    if path.exists():
        kept = [record for record in read_jsonl(path) if record["step"] <= step]
        _write_atomically(path, "".join(_dumps(record) + "\n" for record in kept))


def commit(files: Sequence[Path]) -> None:
    """Rename each file, complete under its temporary name, to its own name; in order, durably."""
    for path in files:
        with open(temporary(path), "rb+") as file:
            os.fsync(file.fileno())
    for path in files:
        os.replace(temporary(path), path)
        _sync_folder(path.parent)


def temporary(path: Path) -> Path:
    """The temporary name of a file. What a crash left there is overwritten."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def _write_atomically(path: Path, text: str) -> None:
    temporary(path).write_text(text, encoding="utf-8", newline="\n")
    commit([path])


def _sync_folder(folder: Path) -> None:
    """Flush the renaming itself to the disk, where the system can (Windows cannot)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")
