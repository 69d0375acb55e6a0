"""``python -m exercises.instructors.gradescope SEED NUMBER ...``: the results of some exercises, for Gradescope."""

import os
import sys
import tempfile
from pathlib import Path

from ..catalog import find
from ..exercise import Exercise
from ..export import gradescope
from ..grading.grade import Result, grade_file, unreadable
from .hand_ins import HandIn, read


def main(seed: int, numbers: list[int], submission: Path) -> str:
    """``results.json`` of a folder that a student uploaded, in which files may lie in subfolders."""
    exercises = [find(n) for n in numbers]
    with tempfile.TemporaryDirectory(prefix="hand-in-") as scratch:
        hand_in = read(submission, exercises, Path(scratch))
        return gradescope([_result(hand_in, exercise, seed) for exercise in exercises])


def _result(hand_in: HandIn, exercise: Exercise, seed: int) -> Result:
    file = hand_in.files.get(exercise.label)
    if file is None:
        return unreadable(exercise, f"{exercise.file_name} was not handed in", exercise.file_name, seed=seed)
    return grade_file(exercise, file, seed=seed)


if __name__ == "__main__":
    print(main(int(sys.argv[1]), list(map(int, sys.argv[2:])), Path(os.environ["EXERCISES_WORK"])), end="")
