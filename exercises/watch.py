"""Notice when a learner saves a file."""

import time
from collections.abc import Iterator

from .catalog import all_exercises
from .exercise import Exercise
from .workspace import Workspace

_PAUSE = 0.1  # seconds between two looks


def changed_exercises(workspace: Workspace) -> Iterator[Exercise]:
    """Wait for files to change, for ever; yield the exercise of each."""
    exercises = all_exercises()
    before = {e.number: _stamp(workspace, e) for e in exercises}
    while True:
        for e in exercises:
            now = _stamp(workspace, e)
            if now != before[e.number]:
                before[e.number] = now
                if now is not None:
                    yield e
        time.sleep(_PAUSE)


def _stamp(workspace: Workspace, exercise: Exercise) -> tuple[int, int, int] | None:
    """Changes with every save, also with that of an editor which replaces the file."""
    try:
        status = workspace.path(exercise).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
