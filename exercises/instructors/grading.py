"""Grades of a class: exercise by exercise, student by student. Whatever one file does, the others are graded."""

import hashlib
from collections.abc import Iterator, Sequence

from ..exercise import Exercise
from ..grading.grade import GraderError, Result, grade_file
from ..submission import SubmissionError, read_bytes
from ..workspace import Workspace
from .gradebook import Gradebook, Row
from .hand_ins import HandIn

NOT_HANDED_IN = "not handed in"
NOT_GRADED = "NOT GRADED"  # at the beginning of a note: the file may be right


def grade_class(
    class_: Sequence[HandIn], exercises: Sequence[Exercise], seed: int, known: Gradebook
) -> Iterator[tuple[Row, bool]]:
    """The rows of a class, and whether each is new. A row that is known of the same file and seed is kept.

    All students' files of one exercise are graded one after the other: its expected values are computed once.
    """
    for exercise in exercises:
        for hand_in in class_:
            file = hand_in.files.get(exercise.label)
            try:
                digest = "" if file is None else hashlib.sha256(read_bytes(file)).hexdigest()
                problem = ""
            except (SubmissionError, OSError) as error:
                digest, problem = "", str(error)
            old = known.rows.get((hand_in.student, exercise.label))
            if old and digest and (old.sha256, old.seed, old.of) == (digest, seed, exercise.points):
                yield old, False
            elif file is None or problem:
                yield _row(hand_in, exercise, seed, note=problem or hand_in.problem or NOT_HANDED_IN), True
            else:
                yield _graded(hand_in, exercise, seed, digest), True


def _graded(hand_in: HandIn, exercise: Exercise, seed: int, digest: str) -> Row:
    try:
        result = grade_file(exercise, hand_in.files[exercise.label], seed=seed)
    except GraderError as error:
        return _row(hand_in, exercise, seed, note=f"{NOT_GRADED}: the exercise itself is broken: {error}")
    except Exception as error:  # of the system, such as no memory for another process
        return _row(hand_in, exercise, seed, note=f"{NOT_GRADED}: {type(error).__name__}: {error}")
    return _row(hand_in, exercise, seed, result, digest)


def _row(
    hand_in: HandIn, exercise: Exercise, seed: int, result: Result | None = None, digest: str = "", note: str = ""
) -> Row:
    progress = None if hand_in.folder is None else Workspace(hand_in.folder).progress().get(exercise.label)
    notes = [note, hand_in.notes.get(exercise.label, ""), result.note if result else ""]
    return Row(
        student=hand_in.student,
        exercise=exercise.label,
        name=exercise.name,
        points=result.earned if result else 0,
        of=exercise.points,
        seconds=result.seconds if result else 0.0,
        attempts=progress.attempts if progress else None,
        hints=progress.hints if progress else None,
        gave_up=progress.gave_up if progress else None,
        failed="; ".join(c.name for c in result.checks if not c.passed) if result else "",
        note="; ".join(n for n in notes if n),
        seed=seed,
        sha256=digest,
    )
