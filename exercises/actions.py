"""What the commands and the notebook do for a learner: choose, grade, give a hint, show a solution."""

import re
from dataclasses import dataclass
from pathlib import Path

from .catalog import all_exercises, find, numbers
from .exercise import Exercise
from .grading.grade import Result, grade_source, unreadable
from .progress_file import Progress
from .solutions import runnable_solution
from .submission import SubmissionError
from .workspace import Workspace


@dataclass(frozen=True)
class Hint:
    """What a learner is told.

    Attributes:
        exercise: about which.
        failing, next_step: the first part of the last check that failed, and what to do about it; empty if none did.
        shown: the hints so far, the newest last.
    """

    exercise: Exercise
    failing: str
    next_step: str
    shown: tuple[str, ...]


def chosen(which: str) -> list[Exercise]:
    """The exercises of a list such as ``01-04,11``, in the order of their numbers.

    Its parts are numbers, ranges, names and ``all``. ValueError if one stands for no exercise.
    """
    return [find(n) for n in sorted({n for part in which.split(",") for n in _numbers_of(part.strip())})]


def _numbers_of(part: str) -> list[int]:
    if part == "all":
        return numbers()
    if number := re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", part):
        found = [n for n in numbers() if int(number[1]) <= n <= int(number[2] or number[1])]
    else:
        found = [e.number for e in all_exercises() if e.name == part]
    if not found:
        have = f"{numbers()[0]:02} to {numbers()[-1]:02}"
        raise ValueError(f"no exercise {part!r}; give a number ({have}), a range such as 05-09, a name, or all")
    return found


def grade_and_record(
    workspace: Workspace, exercise: Exercise, seed: int, name: str = "", source: str | None = None
) -> Result:
    """Grade the learner's file, or this source, and remember the outcome; ``name`` is the file's in the report.

    GraderError if the exercise itself is broken.
    """
    name = name or short(workspace.path(exercise))
    try:
        source = workspace.source(exercise) if source is None else source
    except SubmissionError as error:
        result = unreadable(exercise, str(error), name, seed=seed)
    else:
        result = grade_source(exercise, source, name, seed=seed)
        failing = next((c.name for c in result.checks if c.failures), "")
        workspace.record(exercise, source, result.earned, result.passed, failing)
    known = workspace.progress().get(exercise.label, Progress())
    result.attempts, result.hints, result.gave_up = known.attempts, known.hints, known.gave_up
    return result


def next_hint(workspace: Workspace, exercise: Exercise) -> Hint:
    """One more hint than before, and before them the next step of the check that failed last."""
    known = workspace.progress().get(exercise.label, Progress())
    number = min(known.hints + 1, len(exercise.hints))
    workspace.update(exercise.label, hints=number)
    step = next((c.next_step for c in exercise.checks if c.name == known.failing), "")
    return Hint(exercise, known.failing if step else "", step, exercise.hints[:number])


def solution_of(workspace: Workspace, exercise: Exercise, give_up: bool) -> str:
    """The solution. PermissionError if the learner has neither passed nor given up."""
    known = workspace.progress().get(exercise.label, Progress())
    if not known.passed:
        if not give_up:
            raise PermissionError(f"exercise {exercise.label} has not passed yet")
        workspace.update(exercise.label, gave_up=True)
    return runnable_solution(exercise)


def short(path: Path) -> str:
    """Relative to the current folder where it lies below it."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
