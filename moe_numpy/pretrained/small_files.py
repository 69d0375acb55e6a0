"""Reading the files beside the weights: JSON and text, of a bounded size."""

import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from .errors import PretrainedError

LIMIT = 64 << 20  # bytes


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The bytes of a file.

    Raises:
        PretrainedError: it cannot be read, is no regular file (a pipe could last for ever), or has more than ``limit``
            bytes.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise PretrainedError(f"{path} is not a regular file")
        if status.st_size > limit:
            raise PretrainedError(f"{path} has {status.st_size:,} bytes; at most {limit:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise PretrainedError(f"{path}: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. PretrainedError as for :func:`read_bytes`, or where it is not UTF-8."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise PretrainedError(f"{path} is not UTF-8 at byte {error.start:,}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; empty if there is no such file.

    Raises:
        PretrainedError: as for :func:`read_bytes`, or it is not JSON, or not an object.
    """
    if not os.path.lexists(path):
        return {}
    try:
        return msgspec.json.decode(read_bytes(path), type=dict[str, Any])
    except msgspec.ValidationError as error:
        raise PretrainedError(f"{path} must hold a JSON object: {error}") from error
    except PretrainedError:
        raise
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{path} is not JSON: {error}") from error
