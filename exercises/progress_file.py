"""What is known about each exercise, in one file that survives damage and several writers."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .submission import SubmissionError, read_bytes


@dataclass
class Progress:
    """What is known about one exercise.

    Attributes:
        attempts: checks of a file that differed from the one checked before.
        hints: hints shown.
        best: the most points earned.
        passed: hash of the file that passed; empty if none did.
        gave_up: whether the solution was shown before it passed.
        last: hash of the file checked last.
        failing: the first part of that check that failed; empty if all passed, or nothing could be compared.
    """

    attempts: int = 0
    hints: int = 0
    best: int = 0
    passed: str = ""
    gave_up: bool = False
    last: str = ""
    failing: str = ""


class ProgressFile:
    """``progress.json`` of a folder, with a copy beside it.

    Of a damaged file the copy is used; the next change keeps the damaged one under another name.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "progress.json"
        self.copy = folder / ".progress.json.copy"

    def read(self) -> dict[str, Progress]:
        """By the exercises' numbers; empty if nothing is known."""
        try:
            return _parsed(self.path)
        except FileNotFoundError:
            return {}
        except _Damaged:
            with suppress(_Damaged, FileNotFoundError):
                return _parsed(self.copy)
            return {}

    def change(self, label: str, to: Callable[[Progress], Progress]) -> Progress:
        """Change what is known about an exercise, on disk at once; no other process changes it in between."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".progress.lock"):
            everything = self.read()
            everything[label] = to(everything.get(label, Progress()))
            self._keep_if_damaged()
            text = json.dumps({k: asdict(v) for k, v in sorted(everything.items())}, indent=1)
            write_atomically(self.copy, text)
            write_atomically(self.path, text)
        return everything[label]

    def _keep_if_damaged(self) -> None:
        try:
            _parsed(self.path)
        except FileNotFoundError:
            return
        except _Damaged:
            os.replace(self.path, free_name(self.path.with_suffix(".json.damaged")))


class _Damaged(Exception):
    """A file is not what was written here."""


def _parsed(path: Path) -> dict[str, Progress]:
    """FileNotFoundError if there is none; _Damaged for anything that was not written here."""
    try:
        stored = json.loads(read_bytes(path))
    except (SubmissionError, ValueError, RecursionError) as error:
        raise _Damaged from error
    if type(stored) is not dict or not all(map(_is_progress, stored.values())):
        raise _Damaged
    return {label: Progress(**values) for label, values in stored.items()}


def _is_progress(values: object) -> bool:
    kinds = {name: type(value) for name, value in asdict(Progress()).items()}
    return type(values) is dict and all(type(value) is kinds.get(name) for name, value in values.items())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; no lock where the file system has none."""
    with open(path, "a+") as file:  # does not wait for the reader of a pipe
        try:
            import fcntl

            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        except ImportError:  # Windows; a browser has neither
            with suppress(OSError, ImportError):
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
        yield


def free_name(path: Path) -> Path:
    """This path, or with the first number behind it that no file has."""
    candidates = (path.with_name(f"{path.name}{n if n > 1 else ''}") for n in range(1, 10**6))
    return next(p for p in candidates if not os.path.lexists(p))


def write_atomically(path: Path, text: str) -> None:
    """The whole text or nothing, whenever the process ends."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
