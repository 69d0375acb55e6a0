"""Opening the files of a published folder: every fault is a :class:`PretrainedError` that names the file."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from .errors import PretrainedError, quoted

JSON_LIMIT = 32_000_000  # bytes, of headers too: 250,000 tensors; as Python objects they can take 20 times as many
SETTINGS_LIMIT = 1_000_000  # bytes of config.json
_LFS_POINTER = b"version https://git-lfs"


@contextmanager
def open_published(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading inside the block, where an OSError becomes a PretrainedError.

    Raises:
        PretrainedError: it is missing, empty, not a regular file, or only stands for one.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # reading a pipe or a device could last for ever
            raise PretrainedError(f"{path} is a {'folder' if stat.S_ISDIR(mode) else 'pipe or device'}, not a file")
        with open(path, "rb") as file:
            start = file.read(len(_LFS_POINTER))
            if not start:
                raise PretrainedError(f"{path} is empty")
            if start == _LFS_POINTER:
                raise PretrainedError(f"{path} is a Git LFS pointer, not the file it stands for: run `git lfs pull`")
            file.seek(0)
            yield file
    except FileNotFoundError as error:
        link = f" is a link to {os.readlink(path)}, which" if path.is_symlink() else ""
        raise PretrainedError(f"{path}{link} does not exist") from error
    except OSError as error:
        raise PretrainedError(f"{path} cannot be read: {error.strerror or error}") from error


def read_json(path: Path, type: Any, limit: int = JSON_LIMIT) -> Any:
    """The JSON of a file as a value of this type.

    Raises:
        PretrainedError: it cannot be opened, has more than ``limit`` bytes, is not JSON or of another type, or has a
            name twice in one object.
    """
    with open_published(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise PretrainedError(f"{path} has {size:,} bytes, above the limit of {limit:,}")
        content = file.read(size)
    value = decode_json(content, type, str(path))
    refuse_repeated_names(content, str(path))
    return value


def decode_json(content: bytes | msgspec.Raw, type: Any, what: str) -> Any:
    """JSON as a value of this type. PretrainedError that begins with what it is."""
    try:
        return msgspec.json.decode(content, type=type)
    except msgspec.ValidationError as error:
        raise PretrainedError(f"{what} is damaged: {error}") from error
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{what} is not JSON: {error}") from error


def refuse_repeated_names(content: bytes, what: str) -> None:
    """PretrainedError if an object in this valid JSON has a name twice: which one counts is up to the reader."""

    def names_once(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise PretrainedError(f"{what} has {quoted(name)} twice")
            seen.add(name)

    try:
        json.loads(content.decode(), object_pairs_hook=names_once)
    except PretrainedError:
        raise
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{what} is not JSON: {error}") from error
