"""A file that experts are read from: past the page cache where the system can, otherwise through it and out again."""

import mmap
import os
import threading
import weakref
from io import FileIO
from pathlib import Path

from .byte_ranges import PAGE
from .errors import StoreError


class OpenFile:
    """A file that must stay as it is. Several threads may read at once.

    Args:
        path: of the file.
        end: bytes that it must have at least.
        direct: whether to try O_DIRECT.

    Attributes:
        direct: whether O_DIRECT works. Where it does, reads begin at multiples of a page, in the file and in memory.

    Raises:
        StoreError: it cannot be opened, or is shorter.
    """

    def __init__(self, path: Path, end: int, *, direct: bool = True):
        self.path = path
        try:
            past_cache = _open_direct(path) if direct else None
            self._file = past_cache or FileIO(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
        self.direct = past_cache is not None
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._opened = self._state()
        if self._opened[0] < end:
            self.close()
            raise StoreError(f"{path} has {self._opened[0]:,} bytes, expected at least {end:,}: truncated")
        if not self.direct and hasattr(os, "posix_fadvise"):  # experts are not read one after the other
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, start: int, needed: int, into: memoryview) -> None:
        """Fill the first ``needed`` bytes of ``into`` with those from ``start`` on; more may be overwritten.

        Raises:
            StoreError: reading failed, or the file has changed since it was opened.
        """
        done = 0
        try:
            while done < needed:
                room = into[done:] if self.direct else into[done:needed]
                count = self._read_at(start + done, room)
                done += count
                if count == 0 or (self.direct and done % PAGE):  # the end of the file
                    break
            if not self.direct and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._file.fileno(), start, -(-needed // PAGE) * PAGE, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror or error}") from error
        self.require_unchanged()
        if done < needed:
            raise StoreError(f"{self.path} ends at byte {start + done:,}, expected {start + needed:,}: truncated")

    def require_unchanged(self) -> None:
        """StoreError if the file is shorter, longer or newer than when it was opened."""
        size, written = self._state()
        if (size, written) != self._opened:
            how = "been truncated" if size < self._opened[0] else "changed"
            raise StoreError(f"{self.path} has {how} since it was opened")

    def map(self) -> mmap.mmap:
        """The whole file in the address space, to be read only."""
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def _state(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns

    def _read_at(self, offset: int, into: memoryview) -> int:
        if hasattr(os, "preadv"):  # without the global interpreter lock
            return os.preadv(self._file.fileno(), [into], offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.readinto(into) or 0


def _open_direct(path: Path) -> FileIO | None:
    """The file opened with O_DIRECT; None where the system or the file system refuses a read of one page."""
    flag = getattr(os, "O_DIRECT", None)
    if flag is None or not hasattr(os, "preadv"):
        return None
    try:
        file = FileIO(path, opener=lambda name, flags: os.open(name, flags | flag))
    except OSError:
        return None
    try:
        with mmap.mmap(-1, PAGE) as page:  # aligned
            os.preadv(file.fileno(), [page], 0)
    except OSError:
        file.close()
        return None
    return file
