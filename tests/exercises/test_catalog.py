"""Every exercise of the catalogue is sound as far as can be seen quickly; ``verify`` proves the rest."""

import pytest

from exercises import verify
from exercises.catalog import all_exercises, find, numbers
from exercises.grading.grade import grade_trusted
from exercises.stubs import make_stub, solution_source


@pytest.mark.parametrize("number", numbers())
def test_the_facts_of_an_exercise(number):
    assert list(verify._facts(find(number))) == []


@pytest.mark.parametrize("number", numbers())
def test_the_stub_has_the_face_of_the_library(number):
    exercise = find(number)
    names = {}
    exec(compile(make_stub(exercise), exercise.file_name, "exec"), names)
    for mine, original in verify._pairs(names[exercise.attribute], exercise.solution):
        assert mine.__doc__ == original.__doc__
    assert "NotImplementedError" not in solution_source(exercise)


def test_needs_come_without_a_cycle():
    assert verify.find_cycle({e.number: e.needs for e in all_exercises()}) == []
    assert verify.find_cycle({1: (2,), 2: (3,), 3: (1,)}) == [1, 2, 3, 1]


def test_verify_rejects_a_wrong_solution_that_passes():
    exercise = find(11)
    problems = list(verify._wrong(exercise, exercise.solution))
    assert len(problems) == 1
    assert "passes" in problems[0]


def test_a_wrong_solution_is_killed_and_recognised():
    exercise = find(11)
    result = grade_trusted(exercise, exercise.wrong[0])
    assert not result.passed
    assert "ties to the highest" in {c.problem.recognised for c in result.checks if c.problem}


def test_an_unknown_number_is_refused():
    with pytest.raises(ValueError, match="no exercise 99"):
        find(99)
