"""Every exercise of the catalogue is sound as far as can be seen quickly; ``verify`` proves the rest."""

import inspect
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from exercises import verify
from exercises.catalog import all_exercises, find, numbers
from exercises.exercise import Check, one_by_one
from exercises.grading.compare import judge
from exercises.grading.grade import GraderError, grade_trusted, judge_here, outcomes_of, prepare
from exercises.grading.outcome import run_cases
from exercises.mistakes import EditError, Mistake, collected, edits
from exercises.solutions import runnable_solution
from exercises.source import solution_source
from exercises.stubs import has_derivative, make_stub
from moe_numpy.ops import Softmax


@pytest.mark.parametrize("number", numbers())
def test_the_facts_of_an_exercise(number):
    assert list(verify._facts(find(number))) == []


@pytest.mark.parametrize("number", numbers())
def test_the_stub_has_the_face_of_the_library(number):
    exercise = find(number)
    names = {}
    exec(compile(make_stub(exercise), exercise.file_name, "exec"), names)
    for mine, original in verify._pairs(names[exercise.attribute], exercise.solution):
        assert inspect.getdoc(mine) == inspect.getdoc(original)
    assert "NotImplementedError" not in solution_source(exercise.target)


# What a derivative looks like in a docstring: ∂L/∂x, dL/dx, or "dx =".
DERIVATIVE = re.compile(r"∂|\bdL/d|\bd_?[A-Za-zα-ω]\w*(\[[^\]]*\])? =")


@pytest.mark.parametrize("number", numbers())
def test_a_stub_to_derive_does_not_say_what_the_derivative_is(number):
    exercise = find(number)
    if not has_derivative(exercise):
        with pytest.raises(ValueError, match="no derivative"):
            make_stub(exercise, derive=True)
        return
    stub = make_stub(exercise, derive=True)
    formula = inspect.getdoc(exercise.solution.backward)
    assert DERIVATIVE.search(formula)
    assert not DERIVATIVE.search(stub)
    assert formula not in stub
    names = {}
    exec(compile(stub, exercise.file_name, "exec"), names)
    solution = names[exercise.attribute]
    assert str(inspect.signature(solution.backward)) == str(inspect.signature(exercise.solution.backward))
    assert inspect.getdoc(solution.forward) == inspect.getdoc(exercise.solution.forward)


def test_a_solution_is_annotated_at_its_lines():
    solution = runnable_solution(find(5))
    assert find(5).hints[2] in solution
    (line,) = [line for line in solution.splitlines() if "self.axis  # see" in line]
    number = int(line.rpartition(" ")[2])
    mistake = find(5).mistakes[number - 1]
    assert mistake.replacements[0][0] in line
    assert f"# {number:2}  {mistake.name}: " in solution


def test_needs_come_without_a_cycle():
    assert verify.find_cycle({e.number: e.needs for e in all_exercises()}) == []
    assert verify.find_cycle({1: (2,), 2: (3,), 3: (1,)}) == [1, 2, 3, 1]


def test_verify_rejects_a_wrong_solution_that_passes():
    exercise = find(11)
    library = Mistake("the library's", "It is right.", whole=exercise.solution, reference=exercise.target)
    problems = list(verify._mistake(exercise, library, 0))
    assert len(problems) == 1
    assert "passes" in problems[0]


def test_a_wrong_solution_is_killed_and_recognised():
    exercise = find(11)
    result = grade_trusted(exercise, exercise.mistakes[0].reference)
    assert not result.passed
    assert "ties to the highest" in {c.problem.recognised for c in result.checks if c.problem}


def test_an_unknown_number_is_refused():
    with pytest.raises(ValueError, match="no exercise 99"):
        find(99)


@pytest.mark.no_cover
@pytest.mark.parametrize("number", numbers())
def test_the_solution_passes_as_it_stands_and_every_wrong_one_fails_a_check(number):
    exercise = find(number)
    prepared = [p for p in prepare(exercise, 0) if not p.check.time_limit]
    names = {"__name__": "learner"}
    exec(compile(runnable_solution(exercise), exercise.file_name, "exec"), names)
    outcomes = [run_cases(p.run, names[exercise.attribute], p.cases) for p in prepared]
    assert [c.problem for c in judge_here(exercise, prepared, outcomes, 0) if c.problem] == []
    for mistake in exercise.mistakes:
        assert any(
            judge(outcome, expected, numeric, gradient=p.check.gradient)
            for p in prepared
            for outcome, expected, numeric in zip(outcomes_of(mistake, p), p.expected, p.numeric, strict=True)
        ), mistake.name


BROKEN = {
    "hints": ({"hints": ("a", "a", "")}, "three different hints"),
    "few": ({"mistakes": ()}, "0 wrong solutions"),
    "needs": ({"needs": (99,)}, "needs [99]"),
    "minutes": ({"minutes": 90}, "10 to 30 minutes"),
    "checks": ({"checks": (Check("a", 0, one_by_one(), ""),) * 2}, "two checks have one name"),
    "gradient": ({"target": "moe_numpy.ops.activations:Softmax"}, "no check of the gradient"),
    "names": ({"mistakes": (Mistake("x", "y", whole=json.dumps),) * 5}, "two wrong solutions have one name"),
    "explanation": ({"mistakes": (Mistake("x", "", whole=json.dumps),) * 5}, "no explanation of its own"),
    "top level": ({"mistakes": (Mistake("x", "y", whole=lambda: 0),) * 5}, "top level"),
    "edit": ({"mistakes": (Mistake("x", "y", (("a", "b"),), target="moe_numpy.kernels.sorting:top_k"),)}, "not once"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_verify_names_what_is_wrong_with_an_exercise(name):
    changes, message = BROKEN[name]
    assert any(message in problem for problem in verify._facts(replace(find(11), **changes)))


def test_oracles_that_disagree_are_reported():
    broken = replace(find(11), specification=find(11).mistakes[0].solution)
    with pytest.raises(GraderError, match="library against specification"):
        prepare(broken, 0)
    broken = replace(find(5), specification=lambda x, *, axis=-1: x)
    with pytest.raises(GraderError, match="specification"):
        prepare(broken, 0)


def test_verify_tells_apart_what_it_is_given(monkeypatch):
    broken = replace(find(11), specification=find(11).mistakes[0].solution)
    monkeypatch.setattr(verify, "find", lambda number: broken)
    assert "library against specification" in verify.verify_one(11).problems[0]


def test_verify_accepts_a_sound_exercise():
    assert verify.verify_one(1).problems == []


def test_verify_hears_a_canary_that_does_not_sing(monkeypatch):
    """A grader that runs the library instead of the learner's file is found out."""

    def runs_the_library(exercise, source, file):
        return grade_trusted(exercise, exercise.target)

    monkeypatch.setattr(verify, "grade_source", runs_the_library)
    problems = list(verify._stub(find(1)))
    assert any("canary" in p for p in problems)
    assert any("stub earns" in p for p in problems)


def test_a_broken_exercise_does_not_hide_the_others(monkeypatch):
    monkeypatch.setattr(verify, "find", lambda number: replace(find(11), target="moe_numpy.kernels.sorting:nothing"))
    assert "nothing" in verify.verify_one(11).problems[0]


def test_a_stub_imports_what_its_signature_names():
    stub = make_stub(replace(find(11), target="moe_numpy.moe.capacity:Capacity.fits"))
    assert "from moe_numpy.moe.routing import Batch, Candidates" in stub
    assert "self, candidates: Candidates" in stub


EDITS = """
takes the lowest: It sorts upwards, so that
the first columns hold the smallest.
- -scores
+ 1 * scores
no columns: Nothing is left out.
- [:, :k]
- return np.argsort
+ best = np.argsort
- kind="stable")
+ kind="stable"); return best
"""


def test_edits_are_read_with_their_changes():
    first, second = edits(EDITS)
    assert (first.name, first.why) == (
        "takes the lowest",
        "It sorts upwards, so that the first columns hold the smallest.",
    )
    assert first.replacements == (("-scores", "1 * scores"),)
    assert first.code == "1 * scores"
    assert second.replacements[0] == ("[:, :k]\nreturn np.argsort", "best = np.argsort")


@pytest.mark.parametrize("text", ["no explanation\n- a\n+ b", "no change: Nothing.", "- a\n+ b"])
def test_an_incomplete_edit_is_refused(text):
    with pytest.raises(EditError, match="expected 'name: why'"):
        edits(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("- scores\n+ x", "2 times"),
        ("- nothing\n+ x", "0 times"),
        ("- axis=1\n+ axis=1", "changes nothing"),
        ("- axis=1\n+ axis=", "does not run"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(change, message):
    (mistake,) = edits("a name: A reason.\n" + change)
    with pytest.raises(EditError, match=message):
        collected(mistake, "m", "moe_numpy.kernels.sorting:top_k").solution  # noqa: B018


def test_an_edit_registers_no_kernel():
    wrong = find(5).mistakes[0].solution
    x = np.array([1000.0, 0.0])
    with np.errstate(all="ignore"):
        assert np.isnan(wrong().forward(x)).any()
    assert np.isfinite(Softmax().forward(x)).all()


def test_an_edit_that_does_not_fit_costs_no_grade():
    broken = Mistake("x", "y", (("no such text", ""),), target=find(11).target)
    result = grade_trusted(replace(find(11), mistakes=(broken,)), find(11).mistakes[1].reference)
    assert result.earned > 0
    assert {c.problem.recognised for c in result.checks if c.problem} == {""}
