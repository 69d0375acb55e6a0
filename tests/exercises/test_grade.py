"""What the grader says of a wrong solution, in the order of suspicion."""

import re

import pytest

from exercises.catalog import find
from exercises.grading.grade import grade_source

HEAD = "import numpy as np\n\ndef top_k(scores, k):\n    right = np.argsort(-scores, axis=1, kind='stable')[:, :k]\n"
RIGHT = HEAD + "    return right\n"


def first_problem(body, number=11):
    result = grade_source(find(number), body, "mine.py")
    return next(c.problem for c in result.checks if c.problem)


def test_a_right_solution_passes():
    result = grade_source(find(11), RIGHT, "mine.py")
    assert result.passed
    assert result.earned == find(11).points


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("raise KeyError('x')", "exception", "KeyError"),
        ("pass", "none", "returned None"),
        ("return right[:, :0]", "shape", "wrong shape"),
        ("return right.astype(float)", "dtype", "wrong dtype"),
        ("scores[:] = 0; return right", "mutated", "argument 0 was changed in place"),
        ("return right + 1", "values", "entries are wrong"),
        ("return 'abc'", "type", "not an array"),
        ("return right, right", "type", "2 results"),
    ],
)
def test_the_order_of_suspicion(line, kind, message):
    problem = first_problem(HEAD + f"    {line}\n")
    assert problem.kind == kind
    assert message in problem.message


def test_an_exception_names_the_learners_own_line():
    problem = first_problem(HEAD + "    return np.zeros((2, 3)) @ np.zeros((2, 3))\n")
    assert problem.line == 5
    assert problem.code == "return np.zeros((2, 3)) @ np.zeros((2, 3))"


def test_a_syntax_error_names_its_line():
    problem = first_problem("def top_k(scores, k):\n    return (\n")
    assert problem.kind == "load"
    assert problem.line == 2


def test_a_missing_function_is_named():
    assert "does not define top_k" in first_problem("x = 1\n").message


def test_values_come_with_the_worst_entry_and_its_input():
    problem = first_problem(RIGHT.replace("return right", "return right[:, ::-1]"))
    assert re.fullmatch(r"\d+", problem.yours)
    assert problem.case.startswith("top_k(float64[")
    assert problem.seed == 0
    assert any(name.startswith("input[") for name in problem.arrays)


def test_another_seed_draws_other_inputs():
    broken = RIGHT.replace("return right", "return right[:, ::-1]")
    results = [grade_source(find(11), broken, "mine.py", seed=s).checks[0].problem for s in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0].arrays != results[2].arrays


SOFTMAX = """
import numpy as np
from moe_numpy.autodiff import Function

class Softmax(Function):
    def forward(self, x, *, axis=-1):
        y = np.exp(x - x.max(axis=axis, keepdims=True))
        y = y / y.sum(axis=axis, keepdims=True)
        self.axis = axis
        self.save(y)
        return {forward}

    def backward(self, grad):
        (y,) = self.saved
        gy = grad * y
        return {backward}
"""
GRADIENT = "gy - y * gy.sum(axis=self.axis, keepdims=True)"


def softmax(forward="y", backward=GRADIENT):
    return grade_source(find(5), SOFTMAX.format(forward=forward, backward=backward), "mine.py")


def test_gradients_are_compared_with_finite_differences():
    result = softmax(backward="1.5 * gy")
    problem = next(c.problem for c in result.checks if c.problem)
    assert problem.numeric
    assert problem.index is not None
    assert result.checks[0].passed


def test_a_known_mistake_is_named_and_explained():
    problem = next(c.problem for c in softmax(backward="gy").checks if c.problem)
    assert problem.recognised == "forgets the sum"
    assert "missing" in problem.explanation


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"backward": "None"}, "none"),
        ({"backward": "(gy, gy)"}, "exception"),
        ({"backward": "gy * np.nan"}, "nan"),
        ({"forward": "y.astype(np.float64)"}, "dtype"),
    ],
)
def test_what_can_be_wrong_with_a_function(settings, kind):
    assert kind in {c.problem.kind for c in softmax(**settings).checks if c.problem}


def test_warnings_are_shown_and_not_scored():
    source = RIGHT.replace("    return", "    import warnings; warnings.warn('careful')\n    return")
    result = grade_source(find(11), source, "mine.py")
    assert result.passed
    assert result.checks[0].warnings == ["UserWarning: careful"]


def test_prints_are_kept_for_the_report():
    result = grade_source(find(11), RIGHT.replace("    return", "    print('seen')\n    return"), "mine.py")
    assert result.passed
    assert "seen" in result.checks[0].output
