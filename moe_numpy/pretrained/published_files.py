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

JSON_LIMIT = 100_000_000  # bytes; of a header too, as in the safetensors library
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


def read_json(path: Path, type: Any) -> Any:
    """The JSON of a file as a value of this type.

    Raises:
        PretrainedError: it cannot be opened, is larger than ``JSON_LIMIT``, is not JSON or of another type, or has a
            name twice in one object.
    """
    with open_published(path) as file:
        content = file.read(JSON_LIMIT + 1)
    if len(content) > JSON_LIMIT:
        raise PretrainedError(f"{path} has more than {JSON_LIMIT:,} bytes, too many for JSON")
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
        if len(dict(pairs)) < len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in names if names.count(name) > 1)
            raise PretrainedError(f"{what} has {quoted(repeated)} twice")

    try:
        json.loads(content.decode(), object_pairs_hook=names_once)
    except PretrainedError:
        raise
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{what} is not JSON: {error}") from error
