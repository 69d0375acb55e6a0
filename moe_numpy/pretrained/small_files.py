"""Reading the files beside the weights: JSON objects that may be missing, text and bytes of a bounded size."""

import os
from pathlib import Path
from typing import Any

from .errors import PretrainedError
from .published_files import open_published, read_json

TEXT_LIMIT = 4_000_000  # bytes


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a file. PretrainedError if it cannot be opened or has more than ``limit`` bytes."""
    with open_published(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise PretrainedError(f"{path} has {size:,} bytes; at most {limit:,} are read")
        return file.read()


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. PretrainedError as for :func:`read_bytes`, or where it is not UTF-8."""
    try:
        return read_bytes(path, TEXT_LIMIT).decode()
    except UnicodeDecodeError as error:
        raise PretrainedError(f"{path} is not UTF-8 at byte {error.start:,}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; empty if there is no such file. PretrainedError as for ``read_json``."""
    return read_json(path, dict[str, Any]) if os.path.lexists(path) else {}
