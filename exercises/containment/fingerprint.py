"""Where no layer keeps the grader's files read-only: notice that one of them changed."""

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGES = ("exercises", "moe_numpy")
_CODE = (".py", ".pyc", ".so", ".pyd", ".pth")
Stamp = tuple[int, int, int]


def changed() -> str:
    """A file that is not what it was when this was first asked; empty if there is none."""
    before = _first()
    now = _stamps({*before, *_own(), *_loose()})
    return next((path for path in sorted(before.keys() | now.keys()) if before.get(path) != now.get(path)), "")


@cache
def _first() -> dict[str, Stamp]:
    return _stamps({*_own(), *_loose(), *_loaded()})


def _stamps(paths: set[str]) -> dict[str, Stamp]:
    found = {}
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            continue
        found[path] = (status.st_mtime_ns, status.st_size, status.st_ctime_ns)
    return found


def _own() -> Iterator[str]:
    """The project's code."""
    root = Path(__file__).resolve().parents[2]
    for package in _PACKAGES:
        for folder, folders, names in os.walk(root / package):
            folders[:] = [f for f in folders if f not in ("work", "__pycache__")]
            yield from (os.path.join(folder, name) for name in names if name.endswith(_CODE))


def _loose() -> Iterator[str]:
    """What lies in the folders where Python looks for modules, not in a package."""
    for entry in sys.path:
        if os.path.isdir(entry):
            yield from (os.path.join(entry, name) for name in os.listdir(entry) if name.endswith(_CODE))


def _loaded() -> Iterator[str]:
    """The files of all modules that this process has loaded, compiled ones too."""
    for module in list(sys.modules.values()):
        yield from (p for p in (getattr(module, "__file__", None), getattr(module, "__cached__", None)) if p)
