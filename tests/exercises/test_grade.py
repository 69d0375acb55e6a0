"""What the grader says of a wrong solution, in the order of suspicion."""

import re

import numpy as np
import pytest

from exercises.catalog import find
from exercises.grading.compare import judge
from exercises.grading.grade import grade_source
from exercises.grading.outcome import Outcome, plain

HEAD = """import numpy as np

cache = {}
def top_k(scores, k):
    right = np.argsort(-scores, axis=1, kind='stable')[:, :k]
"""
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
        ("return right.tolist()", "type", "a list of 5, not an array"),
        ("return right.view(np.matrix)", "type", "a matrix, not an array"),
        ("return np.ma.masked_array(right)", "type", "a MaskedArray, not an array"),
        ("return right.astype(np.int8)", "dtype", "wrong dtype"),
        ("return right.astype(np.uint64)", "dtype", "wrong dtype"),
        (
            "cache.setdefault(right.shape, right)[...] = right; return cache[right.shape]",
            "state",
            "a later call writes",
        ),
        ("cache[len(cache)] = 0; return right[:, ::-1] if len(cache) > 5 else right", "state", "the second time"),
    ],
)
def test_the_order_of_suspicion(line, kind, message):
    problem = first_problem(HEAD + f"    {line}\n")
    assert problem.kind == kind
    assert message in problem.message


def test_an_exception_names_the_learners_own_line():
    problem = first_problem(HEAD + "    return np.zeros((2, 3)) @ np.zeros((2, 3))\n")
    assert problem.line == 6
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backward": "np.multiply(grad, 0, out=grad) + " + GRADIENT}, "wrote into the gradient it was given"),
        ({"backward": "np.multiply(y, 0, out=y) + " + GRADIENT}, "changed in place between forward and backward"),
        ({"backward": f"[{GRADIENT}]"}, "backward returned a list of 1"),
        ({"forward": "y.astype(np.float32).astype(x.dtype)"}, "entries are wrong"),
    ],
)
def test_what_shows_only_beside_the_value(settings, message):
    result = softmax(**settings)
    assert any(c.problem and message in c.problem.message for c in result.checks)


KEPT = SOFTMAX.replace("self.save(y)", "Softmax.kept = y").replace("(y,) = self.saved", "y = Softmax.kept")
BUFFER = SOFTMAX.replace("return {backward}", "d = buffers.setdefault(y.shape, y * 0); d[...] = {backward}; return d")


@pytest.mark.parametrize(
    ("source", "message"),
    [(KEPT, ""), ("buffers = {{}}\n" + BUFFER, "a later call writes into what was returned")],
)
def test_state_outside_the_instance_is_found(source, message):
    result = grade_source(find(5), source.format(forward="y", backward=GRADIENT), "mine.py")
    problems = {c.name: c.problem for c in result.checks if c.problem}
    assert set(problems) >= {"gradient", "gradient in float32"}
    assert "forward" not in problems
    assert message in problems["gradient"].message


def test_a_list_of_right_gradients_is_called_a_list():
    source = """
from moe_numpy.autodiff import Function

class Multiply(Function):
    def forward(self, a, b):
        self.save(a, b)
        return a * b

    def backward(self, grad):
        a, b = self.saved
        return [grad * b, grad * a]
"""
    problem = next(c.problem for c in grade_source(find(2), source, "mine.py").checks if c.problem)
    assert problem.message.startswith("TypeError: backward returned a list of 2; return an array, or a tuple of arrays")


@pytest.mark.parametrize("returned", ["float(2 * a)", "2 * a", "(2 * a,)"])
def test_numbers_of_python_are_no_arrays(returned):
    rules = {"float(2 * a)": "a Python float, not an array", "2 * a": None, "(2 * a,)": "1 results in a tuple"}
    problem = judge(Outcome(value=plain(eval(returned, {"a": np.float64(1)}))), Outcome(value=np.asarray(2.0)))
    assert (problem and problem.message.partition(" of")[0].partition(", expected")[0]) == rules[returned]


@pytest.mark.parametrize(
    ("dtype", "error", "right"),
    [
        (np.float64, 1e-8, False),
        (np.float64, 1e-12, True),
        (np.float32, 1e-4, False),
        (np.float32, 1e-6, True),
    ],
)
def test_a_small_row_beside_a_large_one_counts_as_much(dtype, error, right):
    rows = np.array([[1e9, 2e9], [1.0, 2.0], [0.0, 0.0]], dtype)
    yours = rows.copy()
    yours[1] *= 1 + error
    assert (judge(Outcome(value=yours), Outcome(value=rows)) is None) == right


def test_warnings_are_shown_and_not_scored():
    source = RIGHT.replace("    return", "    import warnings; warnings.warn('careful')\n    return")
    result = grade_source(find(11), source, "mine.py")
    assert result.passed
    assert result.checks[0].warnings == ["UserWarning: careful"]


def test_prints_are_kept_for_the_report():
    result = grade_source(find(11), RIGHT.replace("    return", "    print('seen')\n    return"), "mine.py")
    assert result.passed
    assert "seen" in result.checks[0].output


def test_backward_must_be_proportional_to_its_gradient():
    source = """
from moe_numpy.ops import Multiply as Right

class Multiply(Right):
    def backward(self, grad):
        return tuple(g if g is None else g.clip(-50, 50) for g in super().backward(grad))
"""
    result = grade_source(find(2), source, "mine.py")
    assert {c.problem.kind for c in result.checks if c.problem} == {"state"}
    assert "not proportional" in next(c.problem.message for c in result.checks if c.problem)


def test_a_gradient_must_not_depend_on_what_else_needs_one():
    source = """
from moe_numpy.ops import SwiGLU as Right

class SwiGLU(Right):
    def backward(self, grad):
        d_gate, d_up = super().backward(grad)
        return d_gate if self.needs_grad(1) else None, d_up
"""
    result = grade_source(find(7), source, "mine.py")
    problems = [c.problem for c in result.checks if c.problem]
    assert {p.kind for p in problems} == {"state"}
    assert all("argument 0" in p.message and "needs_grad(0)" in p.message for p in problems)


@pytest.mark.parametrize("kind", ["np.matrix", "np.ma.MaskedArray"])
def test_a_gradient_of_another_kind_of_array_is_refused(kind):
    source = f"""
import numpy as np
from moe_numpy.ops import CrossEntropy as Right

class CrossEntropy(Right):
    def backward(self, grad):
        dx, none = super().backward(grad)
        return dx.view({kind}) if dx.ndim == 2 else dx, none
"""
    result = grade_source(find(6), source, "mine.py")
    assert kind.rpartition(".")[2] in next(c.problem.message for c in result.checks if c.problem)
