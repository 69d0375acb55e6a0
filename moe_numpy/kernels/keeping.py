"""numba's files of compiled loops, checked: a loop whose files are damaged is compiled again.

numba itself unpickles whatever it finds, and a file that was cut or changed ends in a traceback, a crash, or other
machine code.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from numba.core.caching import FunctionCache, IndexDataCacheFile


class KeptLoop(FunctionCache):
    """The compiled versions of one loop, on disk where that is possible.

    They are out of date when the file of the loop has changed, or that of a module in its ``MADE_OF``.

    Raises:
        RuntimeError: there is no folder to keep them in.
    """

    def __init__(self, loop: Any):
        super().__init__(loop)
        parts = loop.__globals__.get("MADE_OF", ())
        stamp = self._impl.locator.get_source_stamp(), *(Path(part.__file__).stat()[6:9] for part in parts)
        self._cache_file = _CheckedFiles(self._cache_path, self._impl.filename_base, stamp)

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):  # a full disk, another user's folder
            super().save_overload(sig, data)


class _CheckedFiles(IndexDataCacheFile):
    """Each file ends in a checksum of its name and content, after the last byte that pickle reads."""

    def _load_index(self) -> Any:
        try:
            _check(self._index_path)
            return super()._load_index()
        except OSError:
            return {}

    def _load_data(self, name: str) -> Any:  # numba compiles again after an OSError
        _check(self._data_path(name))
        return super()._load_data(name)

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[IO[bytes]]:
        content = BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + _checksum(filepath, content.getvalue()))


def _check(path: str) -> None:
    """OSError if the file is not there, or not what was written under this name."""
    data = Path(path).read_bytes()
    if data[-32:] != _checksum(path, data[:-32]):
        raise OSError(f"{path} is damaged")


def _checksum(path: str, content: bytes) -> bytes:
    return hashlib.sha256(Path(path).name.encode() + content).digest()
