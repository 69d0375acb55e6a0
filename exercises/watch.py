"""Check a learner's file whenever it is saved, and go on to the next exercise once it passes."""

import time
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from moe_numpy.commands.output import one_line

from .actions import grade_and_record, next_hint, short
from .catalog import all_exercises
from .exercise import Exercise
from .keyboard import Keys, edit
from .report import print_hint, print_list, print_result
from .workspace import Workspace

_PAUSE = 0.1  # seconds between two looks
_KEYS = "Keys: h hint, n next, l list, o open in your editor, q quit"


def watch(workspace: Workspace, console: Console, keys: Keys, current: Exercise | None) -> None:
    """Begin with ``current``; until the key q, or KeyboardInterrupt; one that comes during a check ends only the check.

    Args:
        current: whose file is made and whose hints are given first; None if all have passed.
    """
    exercises = all_exercises()
    changes = Changes(workspace, exercises)
    with keys.one_by_one():
        _say(console, f"Watching {workspace.folder}; Ctrl-C ends it.")
        if keys.available:
            console.print(_KEYS)
        _turn_to(workspace, console, current)
        for event in events(changes, keys):
            if isinstance(event, Exercise):
                if workspace.untouched(event):  # made just now, by this command perhaps
                    continue
                current = event
                if _passes(workspace, console, current):
                    current = _after(current, exercises, workspace)
                    _turn_to(workspace, console, current)
            elif event == "q":
                return
            elif event == "l":
                print_list(console, exercises, workspace)
            elif current is not None and event == "h":
                print_hint(console, next_hint(workspace, current))
            elif current is not None and event == "n":
                current = _after(current, exercises, workspace)
                _turn_to(workspace, console, current)
            elif current is not None and event == "o":
                with keys.as_usual():
                    problem = edit(workspace.ensure(current))
                if problem:
                    _say(console, f"{problem}; the file is {workspace.path(current)}")


class Changes:
    """Which files change from now on."""

    def __init__(self, workspace: Workspace, exercises: list[Exercise]):
        self._workspace, self._exercises = workspace, exercises
        self._before = {e.number: _stamp(workspace, e) for e in exercises}

    def found(self) -> Iterator[Exercise]:
        """The exercises whose files have changed since the last look; not those whose files are gone."""
        for e in self._exercises:
            now = _stamp(self._workspace, e)
            if now != self._before[e.number]:
                self._before[e.number] = now
                if now is not None:
                    yield e


def events(changes: Changes, keys: Keys) -> Iterator[Exercise | str]:
    """For ever: the exercise of each file that changes, and each key."""
    while True:
        yield from changes.found()
        key = keys.pressed(_PAUSE)
        if key:
            yield key


def _passes(workspace: Workspace, console: Console, exercise: Exercise) -> bool:
    console.rule(Text(time.strftime("%H:%M:%S"), "dim"))
    try:
        with console.status(f"checking {exercise.label} {exercise.title}; Ctrl-C stops it"):
            result = grade_and_record(workspace, exercise, 0)
    except KeyboardInterrupt:
        console.print("stopped; your file is as you saved it")
        return False
    print_result(console, result)
    return result.passed


def _turn_to(workspace: Workspace, console: Console, exercise: Exercise | None) -> None:
    if exercise is None:
        console.print("All done. Train a model with your functions:  python -m exercises train")
    else:
        _say(console, f"Next: {exercise.label} {exercise.title}, in {short(workspace.ensure(exercise))}")


def _after(current: Exercise, exercises: list[Exercise], workspace: Workspace) -> Exercise | None:
    """The next one that has not passed, in the order of the list and round to its beginning; None if all have."""
    progress = workspace.progress()
    at = exercises.index(current) + 1
    return next((e for e in exercises[at:] + exercises[:at] if workspace.status(e, progress) != "passed"), None)


def _say(console: Console, text: str) -> None:
    """A line to copy a path from: never wrapped, without what a terminal would obey."""
    console.print(Text(one_line(text)), soft_wrap=True)


def _stamp(workspace: Workspace, exercise: Exercise) -> tuple[int, int, int] | None:
    """Changes with every save, also with that of an editor which replaces the file."""
    try:
        status = workspace.path(exercise).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
