"""A known mistake is named only where the learner's results are those of the mistake, and they tell enough."""

import pytest

from exercises import verify
from exercises.catalog import find
from exercises.grading.grade import grade_here, grade_source
from exercises.mistakes import collected, edits

pytestmark = pytest.mark.no_cover


@pytest.mark.parametrize("number", [5, 9, 18, 22])
def test_a_slip_on_top_of_a_mistake_gets_no_false_name(number):
    """``verify`` asks this of every exercise."""
    assert list(verify._false_names(find(number))) == []


def test_one_boolean_is_not_enough():
    """What refuses everything agrees with many mistakes about single functions; only all verdicts together tell."""
    never = "def gradient_is_right(f, gradient, x, rng):\n    return False\n"
    result = grade_source(find(9), never, "mine.py")
    assert not result.passed
    assert {c.problem.recognised for c in result.checks if c.problem} == {""}


def test_a_mistake_that_fails_what_the_solution_passes_is_not_named():
    """Up to 300 entries the results are those of “not stable”, which fails with many tokens too."""
    (partly,) = edits("""
partly: why
- np.argsort(keys, kind="stable")
+ np.argsort(keys, kind="stable" if len(keys) > 300 else None)
""")
    result = grade_here(find(16), lambda: collected(partly, "mine", find(16).target).solution, 0)
    assert {c.name: c.problem.recognised for c in result.checks if c.problem}["equal keys keep their order"] == ""


@pytest.mark.parametrize(
    "kind", ["ValueError", "IndexError", "TypeError", "RuntimeError", "AttributeError", "KeyError"]
)
def test_an_unrelated_exception_gets_no_name(kind):
    result = grade_source(find(3), f"class Affine:\n    pass\n\nraise {kind}('another')\n", "mine.py")
    assert {c.problem.recognised for c in result.checks if c.problem} == {""}
    source = f"def top_k(scores, k):\n    raise {kind}('another')\n"
    result = grade_source(find(11), source, "mine.py")
    assert {c.problem.recognised for c in result.checks if c.problem} == {""}


NAN_FOR_NOTHING = """
import numpy as np

def undo_broadcasting(grad, shape):
    new = grad.ndim - len(shape)
    axes = tuple(range(new)) + tuple(i + new for i, n in enumerate(shape) if n == 1)
    return grad.sum(axis=axes, keepdims=True).reshape(shape) * (1 if grad.size else np.nan)
"""
ARRAY_OF_A_NUMBER = """
import numpy as np
from moe_numpy.ops import Multiply as Right

class Multiply(Right):
    def forward(self, a, b):
        return super().forward(np.asarray(a), np.asarray(b))
"""


@pytest.mark.parametrize(("number", "source"), [(1, NAN_FOR_NOTHING), (2, ARRAY_OF_A_NUMBER)])
def test_a_mistake_that_fails_more_is_not_named(number, source):
    """The mean of nothing is NaN too, and who computes in float64 loses float32 too; but both fail more than that."""
    result = grade_source(find(number), source, "mine.py")
    assert not result.passed
    assert {c.problem.recognised for c in result.checks if c.problem} == {""}
