"""Delete a folder whatever a hostile process made of it."""

import contextlib
import os
import shutil
import uuid
from pathlib import Path


def delete(folder: str) -> None:
    """Delete it; what cannot be deleted stays."""
    with contextlib.suppress(RecursionError):  # folders in folders, a thousand deep
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.isdir(folder):
        _flatten(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _flatten(folder: str) -> None:
    """Move all that lies in folders up, step by step, so that no path gets long; folders without rights get some."""
    pending = [Path(folder)]
    try:
        while pending:
            current = pending.pop()
            for entry in list(os.scandir(current)):
                path = Path(entry.path)
                if not entry.is_dir(follow_symlinks=False):
                    path.unlink()
                    continue
                path.chmod(0o700)
                moved = Path(folder, uuid.uuid4().hex)
                path.rename(moved)
                pending.append(moved)
    except OSError:
        return
