"""One process at a time in a run folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside the block no other process can lock the folder. The lock ends with the process, however that ends.

    It leaves no file behind: the folder itself is locked; on Windows, a file that the system deletes. A file system
    without locks locks nothing.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: there is no such folder.
    """
    descriptor = _open(folder)
    try:
        if fcntl is not None:
            _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    if fcntl is not None:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.open(folder / "lock", os.O_CREAT | os.O_EXCL | os.O_TEMPORARY)
    except FileExistsError as error:
        raise _in_use(folder) from error


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(folder) from error
    except OSError:
        pass


def _in_use(folder: Path) -> BlockingIOError:
    return BlockingIOError(11, "is in use: another process trains this run", str(folder))
