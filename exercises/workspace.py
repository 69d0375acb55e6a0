"""The learner's folder: one file for each exercise, and the progress. Git ignores it, so no pull overwrites it."""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .exercise import Exercise
from .progress_file import Progress, ProgressFile, free_name, write_atomically
from .stubs import make_stub, stubs_of
from .submission import SubmissionError, read_bytes, read_source

_PROJECT = Path(__file__).resolve().parent.parent
_ELSEWHERE = "exercises_work"


class Workspace:
    """The folder that EXERCISES_WORK names; else ``exercises/work`` of a checkout, else ``./exercises_work``.

    Attributes:
        folder: where the files are.
        notice: what the learner should know about it; empty if all is as usual.
    """

    def __init__(self, folder: Path | None = None):
        self.notice = ""
        chosen = os.environ.get("EXERCISES_WORK")
        self.folder = folder or (Path(chosen) if chosen else self._default())
        self._progress = ProgressFile(self.folder)

    def path(self, exercise: Exercise) -> Path:
        """The learner's file, which may not exist yet."""
        return self.folder / exercise.file_name

    def ensure(self, exercise: Exercise) -> Path:
        """The learner's file; made if it is missing and the folder can be written, never overwritten."""
        path = self.path(exercise)
        if not os.path.lexists(path):
            self._write(lambda: write_atomically(self._made() / exercise.file_name, make_stub(exercise)))
        return path

    def source(self, exercise: Exercise) -> str:
        """What the learner's file holds; the stub if there is none. SubmissionError if it is no readable file."""
        try:
            return read_source(self.ensure(exercise))
        except FileNotFoundError:
            return make_stub(exercise)

    def name(self, exercise: Exercise) -> str:
        """The learner's file as seen from the project's folder, whatever the current one is; else its whole path."""
        path = self.path(exercise).absolute()
        return path.relative_to(_PROJECT).as_posix() if path.is_relative_to(_PROJECT) else str(path)

    def untouched(self, exercise: Exercise) -> bool:
        """Whether the learner's file is still the stub; made if it is missing."""
        try:
            return self.source(exercise) in stubs_of(exercise)
        except SubmissionError:
            return False

    def open(self, exercise: Exercise, *, derive: bool = False) -> Path:
        """The learner's file, made if it is missing.

        With ``derive`` it holds the stub without the formula of the derivative. ValueError if there is none, or if the
        learner has written something already.
        """
        if derive:
            stub = make_stub(exercise, derive=True)
            if not self.untouched(exercise):
                raise ValueError(f"{exercise.file_name} has work of yours; reset it first, which keeps it as .bak")
            self._write(lambda: self.write(exercise, stub))
        return self.ensure(exercise)

    def reset(self, exercise: Exercise, *, derive: bool = False) -> Path | None:
        """Put the stub back, as :meth:`write` does."""
        return self.write(exercise, make_stub(exercise, derive=derive))

    def write(self, exercise: Exercise, source: str, known: Iterable[str] = ()) -> Path | None:
        """Put a source into the learner's file; what was there is kept beside it as ``.bak``, whose path comes back.

        An older ``.bak`` stays too: the new one gets a number. A stub is not kept, nor what is ``known`` to be older.
        OSError if the folder cannot be written.
        """
        path, kept = self.path(exercise), None
        if os.path.lexists(path) and not _holds(path, [source, *known, *stubs_of(exercise)]):
            kept = free_name(path.with_suffix(".py.bak"))
            path.rename(kept)
        write_atomically(self._made() / exercise.file_name, source)
        return kept

    def save(self, exercise: Exercise, source: str, known: Iterable[str]) -> Path | None:
        """:meth:`write`; where the folder cannot be written, only take note."""
        kept: list[Path | None] = [None]
        self._write(lambda: kept.append(self.write(exercise, source, known)))
        return kept[-1]

    def progress(self) -> dict[str, Progress]:
        """By the exercises' numbers; empty if nothing is known."""
        return self._progress.read()

    def update(self, label: str, **changes: Any) -> None:
        """Change what is known about an exercise, on disk at once."""
        self._write(lambda: self._progress.change(label, lambda known: replace(known, **changes)))

    def record(self, exercise: Exercise, source: str, earned: int, passed: bool, failing: str = "") -> None:
        """Remember the outcome of a check; ``failing`` is the first of its parts that failed."""
        digest = digest_of(source)

        def after(known: Progress) -> Progress:
            return replace(
                known,
                attempts=known.attempts + (digest != known.last),
                best=max(known.best, earned),
                passed=digest if passed else known.passed,
                last=digest,
                failing=failing,
            )

        self._write(lambda: self._progress.change(exercise.label, after))

    def status(self, exercise: Exercise, progress: dict[str, Progress]) -> str:
        """``passed``, ``edited`` since it passed, ``begun`` or ``new``."""
        known = progress.get(exercise.label, Progress())
        try:
            source = read_source(self.path(exercise))
        except FileNotFoundError:
            return "new"
        except SubmissionError:
            source = ""
        if known.passed:
            return "passed" if known.passed == digest_of(source) else "edited"
        return "begun" if known.attempts and source not in stubs_of(exercise) else "new"

    def _default(self) -> Path:
        usual = _PROJECT / "exercises" / "work"
        if (_PROJECT / "pyproject.toml").is_file():  # a checkout; installed, this is site-packages
            if _can_be_made(usual):
                return usual
            self.notice = f"{usual} cannot be made; your files are in {Path(_ELSEWHERE).absolute()}"
        return Path.cwd() / _ELSEWHERE

    def _made(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder

    def _write(self, action: Callable[[], object]) -> None:
        """Do it; where the folder cannot be written, only take note."""
        try:
            action()
        except OSError as error:
            self.notice = (
                f"{self.folder} cannot be written ({error.strerror}): nothing is saved there; "
                "EXERCISES_WORK can name another folder"
            )


def digest_of(source: str) -> str:
    """SHA-256 of a source."""
    return hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()


def _can_be_made(folder: Path) -> bool:
    return folder.is_dir() or os.access(next(p for p in folder.parents if p.is_dir()), os.W_OK | os.X_OK)


def _holds(path: Path, texts: Iterable[str]) -> bool:
    """Whether it holds one of these texts."""
    try:
        return read_bytes(path) in [text.encode(errors="surrogatepass") for text in texts]
    except (OSError, SubmissionError):
        return False
