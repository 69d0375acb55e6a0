"""A learner's file as Python reads it; whatever else lies in its place is refused in one sentence."""

import io
import os
import stat
import tokenize
from pathlib import Path

LARGEST = 512 * 2**10
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (None, "a device"))


class SubmissionError(Exception):
    """The file cannot be read; the message says why."""


def read_source(path: Path) -> str:
    """The source, decoded as Python does: UTF-8 with or without a byte-order mark, or what its first lines name.

    Raises:
        FileNotFoundError: there is none.
        SubmissionError: it is no file of text, too large, or cannot be decoded.
    """
    data = read_bytes(path)
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return io.TextIOWrapper(io.BytesIO(data), encoding).read()
    except (SyntaxError, UnicodeError, LookupError) as error:
        advice = "save it as UTF-8, or name its encoding in the first line, as in: # coding: latin-1"
        raise SubmissionError(f"{path.name} is not in the encoding that it names ({error}); {advice}") from None


def read_bytes(path: Path) -> bytes:
    """What a regular file holds; the same errors. It waits for no pipe and reads no device."""
    try:
        _require_file(path, path.stat().st_mode)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            _require_file(path, os.fstat(descriptor).st_mode)
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        if path.is_symlink():
            raise SubmissionError(f"{path.name} is a link to a file that is not there") from None
        raise
    except OSError as error:
        raise SubmissionError(f"{path.name} cannot be read: {error.strerror}") from None
    if len(data) > LARGEST:
        raise SubmissionError(f"{path.name} is larger than {LARGEST // 2**10} KiB")
    return data


def _require_file(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next(name for test, name in _KINDS if test is None or test(mode))
        raise SubmissionError(f"{path.name} is {kind}, not a file")
