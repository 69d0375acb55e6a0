"""A folder for a model that is written: free, on a disk with room, and there whole or not at all."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..files import TEMPORARY_SUFFIX, naming, sync_folder


def require_free(out: Path) -> None:
    """FileExistsError unless nothing, or an empty folder, has this name."""
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(
            f"{out} exists{' and is not empty' if out.is_dir() else ''}: choose another, or delete it"
        )


def require_room(out: Path, needed: int) -> None:
    """OSError if the disk has less room than that."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        told = f"the disk has {free:,} bytes free, and up to {needed:,} are needed while writing"
        raise OSError(errno.ENOSPC, told, str(out))


@contextlib.contextmanager
def renamed_at_the_end(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name when the block ends, and is deleted if it fails."""
    folder = out.with_name(f"{out.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    made = [path for path in out.parents if not path.exists()]
    try:
        with naming(out):
            folder.mkdir(parents=True)
        yield folder
        with naming(out):
            os.replace(folder, out)
        sync_folder(out.parent)
    except BaseException:  # a full disk, a signal
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
