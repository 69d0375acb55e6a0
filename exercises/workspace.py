"""The learner's folder: one file for each exercise, and the progress. Git ignores it, so no pull overwrites it."""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .exercise import Exercise
from .stubs import make_stub

_PROJECT = Path(__file__).resolve().parent.parent


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
    """

    attempts: int = 0
    hints: int = 0
    best: int = 0
    passed: str = ""
    gave_up: bool = False
    last: str = ""


class Workspace:
    """The folder ``exercises/work``, or the one that the environment variable EXERCISES_WORK names."""

    def __init__(self, folder: Path | None = None):
        chosen = os.environ.get("EXERCISES_WORK")
        self.folder = folder or (Path(chosen) if chosen else _PROJECT / "exercises" / "work")

    def path(self, exercise: Exercise) -> Path:
        """The learner's file, which may not exist yet."""
        return self.folder / exercise.file_name

    def ensure(self, exercise: Exercise) -> Path:
        """The learner's file; made if it is missing, never overwritten."""
        path = self.path(exercise)
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_atomically(path, make_stub(exercise))
        return path

    def name(self, exercise: Exercise) -> str:
        """The learner's file as seen from the project's folder, whatever the current one is; else its whole path."""
        path = self.path(exercise).absolute()
        return path.relative_to(_PROJECT).as_posix() if path.is_relative_to(_PROJECT) else str(path)

    def untouched(self, exercise: Exercise) -> bool:
        """Whether the learner's file is still the stub; made if it is missing."""
        return self.ensure(exercise).read_text(encoding="utf-8", errors="replace") == make_stub(exercise)

    def reset(self, exercise: Exercise) -> Path | None:
        """Put the stub back; what was there is kept beside it as ``.bak``, whose path comes back."""
        path = self.path(exercise)
        kept = None
        if path.exists() and path.read_text(encoding="utf-8") != make_stub(exercise):
            kept = path.with_suffix(".py.bak")
            path.replace(kept)
        _write_atomically(self._made() / exercise.file_name, make_stub(exercise))
        return kept

    def progress(self) -> dict[str, Progress]:
        """By the exercises' numbers; empty if nothing is known or the file is damaged."""
        try:
            stored = json.loads(self._progress_file.read_text(encoding="utf-8"))
            return {label: Progress(**values) for label, values in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def update(self, label: str, **changes: Any) -> Progress:
        """Change what is known about an exercise, on disk at once."""
        everything = self.progress()
        one = Progress(**{**asdict(everything.get(label, Progress())), **changes})
        everything[label] = one
        text = json.dumps({k: asdict(v) for k, v in sorted(everything.items())}, indent=1)
        _write_atomically(self._made() / self._progress_file.name, text)
        return one

    def record(self, exercise: Exercise, source: str, earned: int, passed: bool) -> None:
        """Remember the outcome of a check."""
        known = self.progress().get(exercise.label, Progress())
        digest = digest_of(source)
        self.update(
            exercise.label,
            attempts=known.attempts + (digest != known.last),
            best=max(known.best, earned),
            passed=digest if passed else known.passed,
            last=digest,
        )

    def status(self, exercise: Exercise, progress: dict[str, Progress]) -> str:
        """``passed``, ``edited`` since it passed, ``begun`` or ``new``."""
        known = progress.get(exercise.label, Progress())
        try:
            source = self.path(exercise).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "new"
        if known.passed:
            return "passed" if known.passed == digest_of(source) else "edited"
        return "begun" if known.attempts and source != make_stub(exercise) else "new"

    @property
    def _progress_file(self) -> Path:
        return self.folder / "progress.json"

    def _made(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder


def digest_of(source: str) -> str:
    """SHA-256 of a source."""
    return hashlib.sha256(source.encode()).hexdigest()


def _write_atomically(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
