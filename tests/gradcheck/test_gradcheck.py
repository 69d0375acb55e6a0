"""The gradient checker is only worth what it rejects: wrong backwards first, right ones after."""

import numpy as np
import pytest

from moe_numpy.autodiff import Function, Tensor, decisions, graph
from moe_numpy.gradcheck import Report, gradcheck
from moe_numpy.gradcheck.diagnosis import evidence

rng = np.random.default_rng(7)
X = rng.standard_normal((3, 4))
SQUARE = rng.standard_normal((4, 4))
ORDER = np.array([2, 0, 3, 1])
INDEX = np.array([0, 2, 2, 1, 0])


# --- right Functions, the base of the wrong ones ------------------------------------------------------------


class Softmax(Function):
    def forward(self, x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        y = e / e.sum(axis=-1, keepdims=True)
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        return y * (grad - (grad * y).sum(axis=-1, keepdims=True))


class LogSoftmax(Function):
    def forward(self, x):
        y = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        return grad - np.exp(y) * grad.sum(axis=-1, keepdims=True)


class Square(Function):
    def forward(self, x):
        self.save(x)
        return x * x

    def backward(self, grad):
        (x,) = self.saved
        return 2 * x * grad


class Tanh(Function):
    def forward(self, x):
        y = np.tanh(x)
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        return grad * (1 - y * y)


class Add(Function):
    def forward(self, x, b):
        return x + b

    def backward(self, grad):
        return grad, grad


class Multiply(Function):
    def forward(self, a, b):
        self.save(a, b)
        return a * b

    def backward(self, grad):
        a, b = self.saved
        return grad * b, grad * a


class Linear(Function):
    """y = x Wᵀ."""

    def forward(self, x, w):
        self.save(x, w)
        return x @ w.T

    def backward(self, grad):
        x, w = self.saved
        return grad @ w, grad.T @ x


class Mean(Function):
    """Over axis 0."""

    def forward(self, x):
        self.n = len(x)
        self.shape = x.shape
        return x.mean(axis=0)

    def backward(self, grad):
        return np.broadcast_to(grad / self.n, self.shape)


class Permute(Function):
    def forward(self, x):
        return x[..., ORDER]

    def backward(self, grad):
        return grad[..., np.argsort(ORDER)]


class Gather(Function):
    def forward(self, x):
        self.shape = x.shape
        return x[INDEX]

    def backward(self, grad):
        out = np.zeros(self.shape)
        np.add.at(out, INDEX, grad)
        return out


class Scatter(Function):
    def forward(self, v):
        y = np.zeros((3, *v.shape[1:]))
        np.add.at(y, INDEX, v)
        return y

    def backward(self, grad):
        return grad[INDEX]


class Relu(Function):
    def forward(self, x):
        self.save(x)
        return np.maximum(x, 0)

    def backward(self, grad):
        (x,) = self.saved
        return grad * (x > 0)


class RecordingRelu(Relu):
    def forward(self, x):
        decisions.record("sign", x.ravel() > 0, lambda i: f"entry {i} is {x.flat[i]:.0e}")
        return super().forward(x)


class TopOne(Function):
    """The largest entry of each row; which one is a decision."""

    def forward(self, x):
        best = x.argmax(axis=-1)

        def explain(i):
            first, second = np.sort(x[i])[:-3:-1]
            return f"token {i}: experts ranked 1 and 2 differ by {first - second:.0e}"

        decisions.record("top-1 set", best, explain)
        self.best, self.shape = best, x.shape
        return x[np.arange(len(x)), best]

    def backward(self, grad):
        out = np.zeros(self.shape)
        out[np.arange(len(out)), self.best] = grad
        return out


class RmsNorm(Function):
    """y = x r with r = 1 / rms(x)."""

    def forward(self, x):
        r = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)
        self.save(x, r)
        return x * r

    def backward(self, grad):
        x, r = self.saved
        return r * (grad - x * r * r * (grad * x).mean(axis=-1, keepdims=True))


class SplitSquare(Function):
    """Two outputs of one input, and an integer one."""

    def forward(self, x):
        self.save(x)
        return x * x, 3 * x, x.argmax(axis=-1)

    def backward(self, square, triple, index):
        assert index is None
        (x,) = self.saved
        return 2 * x * square + 3 * triple


RIGHT = {
    "softmax": (Softmax, [X]),
    "log-softmax": (LogSoftmax, [X]),
    "square": (Square, [X]),
    "tanh": (Tanh, [X]),
    "add": (Add, [X, X[0]]),
    "multiply": (Multiply, [X, X[:, :1]]),
    "linear": (Linear, [X, SQUARE]),
    "mean": (Mean, [X]),
    "permute": (Permute, [SQUARE]),
    "gather": (Gather, [X]),
    "scatter": (Scatter, [rng.standard_normal((5, 2))]),
    "relu": (Relu, [X]),
    "recording relu": (RecordingRelu, [X]),
    "top-1": (TopOne, [X]),
    "rms norm": (RmsNorm, [X]),
    "several outputs": (SplitSquare, [X]),
    "scalar": (Square, [np.array(1.7)]),
    "large": (Square, [1e8 * X]),
    "small": (Square, [1e-8 * X]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_gradients_pass(name):
    op, inputs = RIGHT[name]
    report = gradcheck(lambda *xs: op.apply(*xs), inputs, rng=np.random.default_rng(1))
    assert report.passed, report
    assert report.max_error < 1e-8
    assert report.compared == sum(x.size for x in inputs)
    assert report.skipped == 0


# --- wrong ones ---------------------------------------------------------------------------------------------


def wrong(base, **methods):
    """``base`` with another backward (or forward)."""
    return type(f"Wrong{base.__name__}", (base,), methods)


def overwriting_gather(self, grad):
    out = np.zeros(self.shape)
    out[INDEX] = grad
    return out


def losing_gather(self, grad):
    out = np.zeros(self.shape)
    out[INDEX] += grad
    return out


def losing_scatter(self, v):
    y = np.zeros((3, *v.shape[1:]))
    y[INDEX] += v
    return y


def last_row_zero(self, grad):
    out = Square.backward(self, grad)
    out[-1] = 0
    return out


def last_row_halved(self, grad):
    out = Square.backward(self, grad)
    out[-1] *= 0.5
    return out


def nan_at_one_entry(self, grad):
    out = Square.backward(self, grad)
    out[1, 2] = np.nan
    return out


def rows_weighted(self, grad):
    return Square.backward(self, grad) * np.array([[0.2], [0.7], [3.0]])


def some_scattered(self, grad):
    out = Square.backward(self, grad)
    out.flat[[1, 6, 7]] *= np.array([0.1, 0.2, -0.7])
    return out


WRONG = {
    "zero softmax": (
        wrong(Softmax, backward=lambda self, g: 0 * g),
        [X],
        "zero everywhere",
    ),
    "softmax without the sum term": (
        wrong(Softmax, backward=lambda self, g: self.saved[0] * g),
        [X],
        "a term is missing: analytic - numeric is constant along axis 1 times the output",
    ),
    "log-softmax without the sum term": (
        wrong(LogSoftmax, backward=lambda self, g: g),
        [X],
        "a term is missing: analytic - numeric is constant along axis 1 times exp(the output)",
    ),
    "rms norm without the sum term": (
        wrong(RmsNorm, backward=lambda self, g: self.saved[1] * g),
        [X],
        "a term is missing: analytic - numeric is constant along axis 1 times the input",
    ),
    "constant offset": (
        wrong(Square, backward=lambda self, g: 2 * self.saved[0] * g + g.sum(axis=0)),
        [X],
        "constant along axis 0",
    ),
    "missing inverse permutation": (
        wrong(Permute, backward=lambda self, g: g[..., ORDER]),
        [SQUARE],
        "permuted along axis 1: its slices are the right ones in the order",
    ),
    "no permutation at all": (
        wrong(Permute, backward=lambda self, g: g),
        [SQUARE],
        "permuted along axis 1",
    ),
    "dropped upstream gradient": (
        wrong(Square, backward=lambda self, g: 2 * self.saved[0]),
        [X],
        "ignores the upstream gradient",
    ),
    "not linear in the upstream gradient": (
        wrong(Square, backward=lambda self, g: 2 * self.saved[0] * g * abs(g)),
        [X],
        "not linear in the upstream gradient",
    ),
    "missing factor 2": (
        wrong(Square, backward=lambda self, g: self.saved[0] * g),
        [X],
        "too small by a factor 2 (from the derivative of a square?)",
    ),
    "missing 1/n": (
        wrong(Mean, backward=lambda self, g: np.broadcast_to(g, self.shape)),
        [X],
        "too large by a factor 3, the length of axis 0 of input 0 (a missing mean?)",
    ),
    "1/n too much": (
        wrong(Add, backward=lambda self, g: (g, g / 3)),
        [X, X[0]],
        "too small by a factor 3, the length of axis 0 of input 0 (a mean where a sum belongs?)",
    ),
    "1/√d too many": (
        wrong(Linear, backward=lambda self, g: (g @ self.saved[1] / np.sqrt(5), g.T @ self.saved[0])),
        [rng.standard_normal((3, 5)), rng.standard_normal((2, 5))],
        "the root of the length of axis 1 of input 0",
    ),
    "sample variance": (
        wrong(Square, backward=lambda self, g: 2 * self.saved[0] * g * 4 / 3),
        [X],
        "n/(n-1) for n = 4",
    ),
    "a temperature": (
        wrong(Square, backward=lambda self, g: 2 * self.saved[0] * g / 0.37),
        [X],
        "too large by a factor 2.7027 (a temperature or scale?)",
    ),
    "sign": (
        wrong(Square, backward=lambda self, g: -2 * self.saved[0] * g),
        [X],
        "the sign is flipped",
    ),
    "sign and factor": (
        wrong(Square, backward=lambda self, g: -6 * self.saved[0] * g),
        [X],
        "the sign is flipped and the gradient is too large by a factor 3",
    ),
    "transposed": (
        wrong(Linear, backward=lambda self, g: (g @ self.saved[1], self.saved[0].T @ g)),
        [X, SQUARE],
        "transposed: axes 0 and 1",
    ),
    "reshaped instead of transposed": (
        wrong(Linear, backward=lambda self, g: (g @ self.saved[1], (self.saved[0].T @ g).reshape(5, 4))),
        [X, rng.standard_normal((5, 4))],
        "reshape where .T belongs",
    ),
    "overwritten instead of accumulated": (
        wrong(Gather, backward=overwriting_gather),
        [X],
        "overwritten instead of accumulated",
    ),
    "scatter-add that loses duplicates": (
        wrong(Gather, backward=losing_gather),
        [X],
        "np.add.at",
    ),
    "forward that loses duplicates": (
        wrong(Scatter, forward=losing_scatter),
        [rng.standard_normal((5, 2))],
        "does not depend on 4 of 10 entries at all",
    ),
    "missing broadcast sum": (
        wrong(Add, backward=lambda self, g: (g, g[0])),
        [X, X[0]],
        "only index 0 of axis 0 of output contributes: the sum over that axis is missing",
    ),
    "swapped inputs": (
        wrong(Multiply, backward=lambda self, g: (g * self.saved[0], g * self.saved[1])),
        [X, X[::-1].copy()],
        "swapped: this is the gradient of input 1",
    ),
    "missing derivative of tanh": (
        wrong(Tanh, backward=lambda self, g: g),
        [X],
        "a factor is missing: 1 - the output²",
    ),
    "missing other factor": (
        wrong(Multiply, backward=lambda self, g: (g, g * self.saved[0])),
        [X, X[::-1] + 0.5],
        "a factor is missing: input 1",
    ),
    "factor twice": (
        wrong(Square, backward=lambda self, g: 2 * self.saved[0] ** 2 * g),
        [X],
        "one factor too many: the input",
    ),
    "a factor for each row": (
        wrong(Square, backward=rows_weighted),
        [X],
        "each slice along axis 0 is off by a factor of its own, from 0.2 to 3",
    ),
    "NaN": (
        wrong(Square, backward=nan_at_one_entry),
        [X],
        "NaN in 1 of 12 entries, first at (1, 2)",
    ),
    "infinity": (
        wrong(Square, backward=lambda self, g: g * np.inf),
        [X],
        "infinite in 12 of 12 entries",
    ),
    "only the last row": (
        wrong(Square, backward=last_row_zero),
        [X],
        "wrong only at index 2 (the last) of axis 0; there, the gradient is zero",
    ),
    "only the last row, a factor": (
        wrong(Square, backward=last_row_halved),
        [X],
        "wrong only at index 2 (the last) of axis 0; there, the gradient is too small by a factor 2",
    ),
    "the wrong side of zero": (
        wrong(Square, backward=lambda self, g: 2 * np.abs(self.saved[0]) * g),
        [X],
        "wrong only where the input is negative; there, the sign is flipped",
    ),
    "some entries": (
        wrong(Square, backward=some_scattered),
        [X],
        "wrong only in 3 of 12 entries",
    ),
    "None": (
        wrong(Square, backward=lambda self, g: None),
        [X],
        "no gradient reaches this input",
    ),
    "a small constant": (
        wrong(Square, backward=lambda self, g: 2 * (self.saved[0] + 1e-5) * g),
        [X],
        "or a small constant such as an epsilon",
    ),
    "a factor near 1": (
        wrong(Square, backward=lambda self, g: 2.0002 * self.saved[0] * g),
        [X],
        "too large by a factor 1.0001 (a temperature or scale?)",
    ),
    "two outputs, one forgotten": (
        wrong(SplitSquare, backward=lambda self, g, h, i: g * 2 * self.saved[0]),
        [X],
        "no known pattern",
    ),
    "noise": (
        wrong(Square, backward=lambda self, g: g * np.cos(7 * self.saved[0])),
        [X],
        "no known pattern",
    ),
    "noise along short axes": (
        wrong(Square, backward=lambda self, g: g * np.cos(7 * self.saved[0])),
        [rng.standard_normal((1, 2, 2))],
        "no known pattern",
    ),
    "noise beside an output of another shape": (
        wrong(Mean, backward=lambda self, g: np.broadcast_to(g, self.shape) ** 3),
        [X],
        "not linear",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_gradients_are_rejected_with_a_diagnosis(name):
    op, inputs, expected = WRONG[name]
    report = gradcheck(lambda *xs: op.apply(*xs), inputs, rng=np.random.default_rng(1))
    assert not report.passed
    assert any(expected in mismatch.diagnosis for mismatch in report.mismatches), report
    with pytest.raises(AssertionError, match="gradcheck FAILED"):
        report.raise_if_failed()


def test_detached_branch():
    report = gradcheck(lambda x, y: Multiply.apply(x, y.detach()), [X, X + 1])
    assert [m.name for m in report.mismatches] == ["y"]
    assert "its branch is detached" in report.mismatches[0].diagnosis


def test_partly_detached_branch():
    report = gradcheck(lambda x: Multiply.apply(x, x.detach()), [X])
    assert "too small by a factor 2" in report.mismatches[0].diagnosis


def test_detached_result():
    report = gradcheck(lambda x: Square.apply(x).detach(), [X])
    assert "no gradient reaches" in report.mismatches[0].diagnosis


def test_unused_input_passes():
    report = gradcheck(lambda x, unused: Square.apply(x), [X, X])
    assert report.passed, report
    assert report.compared == 24


def test_gradient_for_an_unused_input_is_rejected():
    op = wrong(Multiply, forward=lambda self, a, b: a.copy(), backward=lambda self, g: (g, g))
    report = gradcheck(lambda a, b: op.apply(a, b), [X, X])
    assert [m.name for m in report.mismatches] == ["b"]
    assert "does not depend on this input at all" in report.mismatches[0].diagnosis


# --- what one entry-wise comparison cannot see --------------------------------------------------------------


def test_float32_in_backward_is_found_within_the_tolerance():
    op = wrong(Square, backward=lambda self, g: (2 * self.saved[0] * g).astype(np.float32).astype(np.float64))
    report = gradcheck(lambda x: op.apply(x), [X])
    assert report.max_error < 1e-6
    assert not report.passed
    assert "passes the tolerance, but it looks like float32 arithmetic inside" in str(report)


def test_cancellation_in_forward_is_not_taken_for_float32_in_backward():
    op = wrong(Square, forward=lambda self, x: x + 3e4 - 3e4, backward=lambda self, g: g)
    report = gradcheck(lambda x: op.apply(x), [X])
    assert report.passed, report


def test_float32_in_forward_is_found():
    op = wrong(Tanh, forward=lambda self, x: Tanh.forward(self, x.astype(np.float32)).astype(np.float64))
    report = gradcheck(lambda x: op.apply(x), [X])
    assert not report.passed
    assert "float32 arithmetic inside forward" in str(report)


def test_float32_output_is_found():
    op = wrong(Square, forward=lambda self, x: Square.forward(self, x.astype(np.float32)))
    report = gradcheck(lambda x: op.apply(x), [X])
    assert "output 0 is float32 for float64 inputs" in str(report)


def test_non_finite_output_is_reported():
    op = wrong(Square, forward=lambda self, x: x * np.inf)
    report = gradcheck(lambda x: op.apply(x), [X])
    assert "output 0 is not finite: 12 of 12 entries" in str(report)


def test_no_float_output_is_reported():
    op = wrong(Square, forward=lambda self, x: x.argmax(axis=-1))
    assert "no floating-point output" in str(gradcheck(lambda x: op.apply(x), [X]))


def test_random_function_is_reported():
    generator = np.random.default_rng(0)
    report = gradcheck(lambda x: Multiply.apply(x, generator.random(4)), [X])
    assert not report.passed
    assert "f is not deterministic" in str(report)
    assert report.compared == 0


def test_reseeded_function_passes():
    gradcheck(lambda x: Multiply.apply(x, np.random.default_rng(0).random(4)), [X]).raise_if_failed()


def test_input_changed_by_forward_is_reported_and_undone():
    def forward(self, x):
        x[0] = 0
        return Square.forward(self, x)

    op = wrong(Square, forward=forward)
    x = X.copy()
    report = gradcheck(lambda x: op.apply(x), [x])
    assert "forward changes the input x in place" in str(report)
    assert np.array_equal(x, X)


def test_input_changed_by_backward_is_reported():
    class Scale(Function):
        def forward(self, x):
            self.x = x
            return 3 * x

        def backward(self, grad):
            self.x *= 2
            return 3 * grad

    assert "backward changes the input x in place" in str(gradcheck(lambda x: Scale.apply(x), [X]))


def test_backward_that_writes_into_its_gradient_is_reported():
    def backward(self, grad):
        grad *= 2 * self.saved[0]
        return grad

    op = wrong(Square, backward=backward)
    report = gradcheck(lambda x: op.apply(x), [X])
    assert not report.mismatches
    assert report.problems == ["WrongSquare.backward writes into the gradient that it receives"]


def test_backward_that_changes_from_run_to_run_is_reported():
    calls = []

    def backward(self, grad):
        calls.append(1)
        return Square.backward(self, grad) * len(calls)

    report = gradcheck(lambda x: wrong(Square, backward=backward).apply(x), [X])
    assert "a second backward, on a fresh graph, gives a different gradient" in str(report)


def test_engine_that_overwrites_grad_is_reported(monkeypatch):
    right = graph.backward

    def overwriting(root, gradient, retain_graph):
        leaf = root.function.edges[0].source.edges[0].source
        leaf.grad = None
        right(root, gradient, retain_graph)

    monkeypatch.setattr(graph, "backward", overwriting)
    report = gradcheck(lambda x: Square.apply(x), [X])
    assert report.problems == ["x: backward replaces what .grad holds instead of adding to it"]


# --- decisions, kinks and jumps -----------------------------------------------------------------------------


def test_near_tie_is_explained_and_moved():
    x = X.copy()
    x[1] = [0.1, 0.5, 0.5 + 3e-7, 0.2]
    report = gradcheck(lambda x: TopOne.apply(x), [x])
    assert report.passed, report
    assert (report.compared, report.moved, report.skipped) == (12, 2, 0)
    assert report.notes == [
        "x: top-1 set: token 1: experts ranked 1 and 2 differ by 3e-07 (2 entries cannot be compared there)"
    ]


def test_wrong_backward_is_found_where_entries_were_moved():
    x = np.full((1, 2), 0.5)
    op = wrong(TopOne, backward=lambda self, g: -TopOne.backward(self, g))
    report = gradcheck(lambda x: op.apply(x), [x])
    assert report.moved == 2
    assert "the sign is flipped" in report.mismatches[0].diagnosis


def test_only_what_is_pending_is_moved():
    x = np.array([0.0, 0.5, -0.3])
    report = gradcheck(lambda a, b: Add.apply(Relu.apply(a), b), [x, X[:, :3]])
    assert report.passed, report
    assert (report.compared, report.moved, report.skipped) == (12, 1, 0)


def test_worst_entry_of_all_points_is_reported():
    op = wrong(Relu, backward=lambda self, g: g * (self.saved[0] > 0) * np.array([1.5, 3, 3]))
    x = np.array([0.0, 0.5, 0.7])
    for seed in range(8):  # the displaced entry is wrong in some of them, but less
        report = gradcheck(lambda x: op.apply(x), [x], rng=np.random.default_rng(seed))
        assert report.mismatches[0].error == pytest.approx(2 / 3)
        assert "too large by a factor 3" in report.mismatches[0].diagnosis


@pytest.mark.parametrize(("op", "value"), [(Relu, 0.0)] + [(RecordingRelu, v) for v in (0.0, 1e-9, -1e-9)])
def test_kink_is_moved_away_from(op, value):
    x = X.copy()
    x[2, 1] = value
    report = gradcheck(lambda x: op.apply(x), [x])
    assert report.passed, report
    assert (report.compared, report.moved, report.skipped) == (12, 1, 0)
    assert "(1 entry cannot be compared there)" in report.notes[0]


@pytest.mark.parametrize("value", [1e-9, -1e-9])
def test_beside_a_kink_a_smaller_step_is_taken(value):
    x = X.copy()
    x[2, 1] = value
    report = gradcheck(lambda x: Relu.apply(x), [x])
    assert report.passed, report
    assert (report.compared, report.skipped) == (12, 0)
    assert report.moved == (value < 0)  # the zero left of a kink cannot be told from one that rounding makes


@pytest.mark.parametrize("distance", [-2.5, -1.9, -1, -2 / 3, -0.4, 0.1, 1 / 3, 0.5, 2 / 3, 0.9, 1, 1.5, 1.99, 2.1])
def test_kink_at_any_place_of_the_stencil(distance):
    """2/3 of a step is where the even part of the test is blind, 0 is where the odd part is."""
    step = 1e-4
    report = gradcheck(lambda x: Relu.apply(x), [np.array([distance * step, 1.0, -1.0, 1.0])], eps=step)
    assert report.passed, report
    assert report.skipped == 0


def test_jump_does_not_hide_a_kink():
    def forward(self, x):
        self.save(x)
        return np.where(x > 0.5, x + 1e9, np.maximum(x, 0))

    report = gradcheck(lambda x: wrong(Relu, forward=forward).apply(x), [np.array([0.5, 0.0, 1.5, -1.0])])
    assert report.passed, report
    assert report.compared == 4
    assert report.moved == 3  # beside outputs of 1e9, the zero at -1 is not certain


def test_gradient_that_is_zero_but_for_rounding_passes():
    ones = np.ones((4, 1))
    report = gradcheck(lambda x: Linear.apply(Softmax.apply(x), ones.T), [X])  # a softmax sums to one
    assert report.passed, report
    assert report.compared == 12
    assert report.max_error < 1e-6
    op = wrong(Softmax, backward=lambda self, g: self.saved[0] * g)
    assert not gradcheck(lambda x: Linear.apply(op.apply(x), ones.T), [X]).passed


def test_jump_does_not_hide_a_wrong_gradient_beside_it():
    def forward(self, x):
        self.save(x)
        return np.where(x > 0.5, x + 1e6, x * x)

    op = wrong(
        Square,
        forward=forward,
        backward=lambda self, g: g * np.where(self.saved[0] > 0.5, 1, 2.02 * self.saved[0]),
    )
    x = np.array([0.5, 0.1, -0.2, 0.3, 1.5])
    report = gradcheck(lambda x: op.apply(x), [x])
    assert report.mismatches[0].wrong >= 3
    assert "a kink or a jump" in report.notes[0]


def test_wrong_backward_is_not_excused_as_a_kink():
    op = wrong(Relu, backward=lambda self, g: g * (self.saved[0] > -100))
    report = gradcheck(lambda x: op.apply(x), [X])
    assert report.skipped == 0
    assert "wrong only where the input is negative; there, the gradient is zero" not in str(report)
    assert not report.passed


def test_strong_curvature_is_not_a_kink():
    class Log(Function):
        def forward(self, x):
            self.save(x)
            return np.log(x)

        def backward(self, grad):
            return grad / self.saved[0]

    report = gradcheck(lambda x: Log.apply(x), [np.array([2e-3, 0.1, 1.0, 50.0, 1e6])])
    assert report.passed, report
    assert (report.moved, report.skipped) == (0, 0)


def test_beside_the_edge_of_its_domain_a_smaller_step_is_taken():
    class Sqrt(Function):
        def forward(self, x):
            self.save(x)
            return np.sqrt(x)

        def backward(self, grad):
            return grad / (2 * np.sqrt(self.saved[0]))

    report = gradcheck(lambda x: Sqrt.apply(x), [np.array([1e-9] * 20 + [1.0] * 21)])
    assert report.passed, report
    assert (report.compared, report.moved) == (41, 0)


def test_out_of_domain_is_moved():
    class Sqrt(Function):
        def forward(self, x):
            self.save(x)
            return np.sqrt(x - 1)

        def backward(self, grad):
            return grad / (2 * np.sqrt(self.saved[0] - 1))

    report = gradcheck(lambda x: Sqrt.apply(x), [np.array([1 + 1e-13, 2.0, 3.0])])
    assert report.passed, report
    assert report.moved == 1


def always_deciding(x):
    """A decision that every step changes."""
    decisions.record("bits", x.data.copy(), lambda i: f"entry {i} is never the same")
    return Square.apply(x)


def test_everything_skipped_does_not_pass():
    report = gradcheck(always_deciding, [X])
    assert (report.compared, report.skipped) == (0, 12)
    assert not report.passed
    assert "entry 0 is never the same" in str(report)
    assert "nothing was compared" in str(report)


def test_mostly_skipped_does_not_pass():
    def f(x):
        decisions.record("first rows", x.data[:2].copy(), lambda i: f"row {i} is never the same")
        return Square.apply(x)

    report = gradcheck(f, [X])
    assert (report.compared, report.skipped) == (4, 8)
    assert "8 of 12 entries could not be compared" in str(report)
    assert not report.passed


def test_few_skipped_passes_and_is_counted():
    def f(x):
        decisions.record("first row", x.data[:1].copy(), lambda i: f"row {i} is never the same")
        return Square.apply(x)

    report = gradcheck(f, [X])
    assert report.passed
    assert (report.compared, report.skipped) == (8, 4)
    assert "4 skipped" in str(report)


@pytest.mark.parametrize(
    ("record", "note"),
    [
        (
            lambda x: decisions.record("sign" if x[0, 0] == X[0, 0] else "order", x > 0, str),
            "sign becomes order",
        ),
        (
            lambda x: decisions.record("drops", np.zeros(int(x[0, 0] == X[0, 0])), str),
            "drops: (1,) becomes (0,)",
        ),
        (
            lambda x: x[0, 0] == X[0, 0] and decisions.record("a", 1, str),
            "the number of decisions changes from 1 to 0",
        ),
    ],
)
def test_every_way_in_which_decisions_change(record, note):
    def f(x):
        record(x.data)
        return Square.apply(x)

    assert note in str(gradcheck(f, [X]))


def test_change_of_output_shape():
    class Positive(Function):
        def forward(self, x):
            self.mask = x > 0
            return x[self.mask]

        def backward(self, grad):
            out = np.zeros(self.mask.shape)
            out[self.mask] = grad
            return out

    x = np.array([1.0, -1.0, 0.0])
    report = gradcheck(lambda x: Positive.apply(x), [x])
    assert report.passed, report
    assert "the shape of an output changes" in report.notes[0]


def test_displaced_point_out_of_domain_is_not_used():
    class Inverse(Function):
        """1/x next to a kink; not defined at the first displaced points that come up."""

        def forward(self, x):
            self.save(x)
            return np.where(abs(x - 1) < 5e-3, np.maximum(x, 1), np.nan)

        def backward(self, grad):
            return grad * (self.saved[0] > 1)

    report = gradcheck(lambda x: Inverse.apply(x), [np.ones(1)])
    assert report.passed, report
    assert report.moved == 1


# --- settings -----------------------------------------------------------------------------------------------


def test_samples():
    report = gradcheck(lambda x: Square.apply(x), [rng.standard_normal((50, 40))], samples=30)
    assert report.passed
    assert report.compared == 30


def test_samples_still_get_a_full_diagnosis():
    op = WRONG["transposed"][0]
    report = gradcheck(lambda x, w: op.apply(x, w), [X, SQUARE], samples=5)
    assert report.compared == 10
    assert "transposed" in report.mismatches[0].diagnosis


def test_large_inputs_are_diagnosed_by_a_part(monkeypatch):
    monkeypatch.setattr(evidence, "LARGEST", 20)
    op = WRONG["missing factor 2"][0]
    report = gradcheck(lambda x: op.apply(x), [rng.standard_normal((11, 13))], samples=5)
    assert "factor 2" in report.mismatches[0].diagnosis


def test_wrong_entries_beyond_the_first_are_diagnosed_too(monkeypatch):
    monkeypatch.setattr(evidence, "LARGEST", 8)
    report = gradcheck(lambda x: WRONG["only the last row"][0].apply(x), [X])
    assert "wrong only at index 2 (the last) of axis 0" in report.mismatches[0].diagnosis


def test_report_names_inputs_and_counts():
    op = wrong(Add, backward=lambda self, g: (g, -g))
    report = gradcheck(lambda tokens, bias: op.apply(tokens, bias), [X, X[0]])
    (mismatch,) = report.mismatches
    assert (mismatch.name, mismatch.shape, mismatch.wrong) == ("bias", (4,), 4)
    assert mismatch.analytic == pytest.approx(-mismatch.numeric)
    text = str(report)
    for part in ("gradient of bias", "analytic", "numeric", "relative error", "tolerance 1e-06", "diagnosis"):
        assert part in text
    renamed = gradcheck(lambda tokens, bias: op.apply(tokens, bias), [X, X[0]], names=["a", "b"])
    assert renamed.mismatches[0].name == "b"


def test_same_seed_same_report():
    f = RIGHT["rms norm"][0]
    one, two = (gradcheck(lambda x: f.apply(x), [X], rng=np.random.default_rng(3)) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([X.astype(np.float32)], "input 0 is of dtype float32"),
        ([X, [1.0]], "input 1 is of type list"),
        ([np.arange(3)], "input 0 is of dtype int64"),
    ],
)
def test_inputs_must_be_float64_arrays(inputs, message):
    with pytest.raises(ValueError, match=message):
        gradcheck(lambda *xs: xs[0], inputs)


def test_names_must_fit():
    with pytest.raises(ValueError, match="names: expected one per input, 1, got 2"):
        gradcheck(lambda x: x, [X], names=["a", "b"])


def test_f_must_return_tensors():
    with pytest.raises(TypeError, match="must return a Tensor or a tuple of Tensors, got ndarray"):
        gradcheck(lambda x: x.data, [X])


def test_errors_of_the_engine_come_through():
    op = wrong(Square, backward=lambda self, g: g[0])
    with pytest.raises(RuntimeError, match=r"the gradient of input 0 has shape \(4,\)"):
        gradcheck(lambda x: op.apply(x), [X])


def test_identity_and_empty():
    assert gradcheck(lambda x: x, [X]).passed
    assert "nothing was compared" in str(gradcheck(lambda x: Square.apply(x), [np.zeros((0, 3))]))
    assert isinstance(Report(), Report)
    assert isinstance(gradcheck(lambda x: (x, Tensor(np.arange(3))), [X]), Report)
