"""Each case here was once a false alarm, a miss, or a sentence that was not true."""

import numpy as np
import pytest
from right_functions import ELU, ZOO, Huber, Sin
from wrong_gradients import Softmax, Square, spoiled

from moe_numpy.autodiff import Function
from moe_numpy.gradcheck import gradcheck
from moe_numpy.gradcheck.draws import cotangents, own_generator
from moe_numpy.gradcheck.ladder import HIDDEN
from moe_numpy.gradcheck.point import Point

pytestmark = pytest.mark.no_cover

X = np.random.default_rng(3).standard_normal((4, 5))


def check(op, x=X, **settings):
    return gradcheck(lambda x: op.apply(x), [x], **settings)


# --- the cotangent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("given", [False, True])
def test_the_cotangent_is_not_what_the_same_seed_draws(seed, given):
    x = np.random.default_rng(seed).standard_normal((3, 4))
    op = type("W", (Square,), {"backward": lambda self, grad: 2 * self.saved[0] * self.saved[0]})
    assert not check(op, x, rng=np.random.default_rng(seed) if given else None).passed


def test_rng_is_a_seed():
    one, two, three = (own_generator(np.random.default_rng(s)).standard_normal() for s in (1, 1, 2))
    assert one == two != three


def test_one_cotangent_has_zero_rows_and_one_evens_sizes_out():
    y = np.array([[1e8, 1.0], [2.0, 3.0], [1e-4, 1.0]])
    dense, rows, even = cotangents([y], np.random.default_rng(0))
    assert dense[0].all()
    assert 0 < rows[0].any(axis=1).sum() < 3
    assert np.abs(even[0] * y).max() < 10 * np.abs(y).min()


# --- small beside large ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [1e6, 1e8, 1e12])
def test_small_entries_beside_a_large_one_are_seen(large):
    op = spoiled(Square, lambda self, dx, grad: dx * np.where(abs(self.saved[0]) < 10, 2, 1))
    report = check(op, np.array([large, 1.0, 2.0, 3.0, -1.5]))
    assert report.mismatches[0].wrong == 4
    assert "wrong only" in report.mismatches[0].diagnosis
    assert "too large by a factor 2" in report.mismatches[0].diagnosis


def test_small_entries_in_a_sum_with_a_large_one_are_seen():
    op = spoiled(Square, lambda self, dx, grad: dx * np.where(abs(self.saved[0]) < 10, 0, 1))
    report = gradcheck(lambda x: op.apply(x).sum(), [np.array([1e8, 1.0, 2.0, 3.0, -1.5])])
    assert report.mismatches[0].wrong == 4


def test_what_rounding_hides_everywhere_is_skipped_and_said():
    class Shadowed(Function):
        def forward(self, x):
            self.save(x)
            return 1e18 + np.sin(x)

        def backward(self, grad):
            return 2 * grad * np.cos(self.saved[0])

    report = check(Shadowed)
    assert report.compared == 0
    assert report.skipped == X.size
    assert not report.passed
    assert HIDDEN in report.notes[0]


# --- smooth functions that bend, and slopes of zero ---------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "x"),
    [
        (ELU, [0.0, 1.0, -1.0]),
        (Huber, [1.0, -1.0, 0.5]),
        (Sin, [1e4, 1e4 + 1, -1e4]),
    ],
)
def test_a_derivative_that_exists_is_compared_in_place(op, x):
    report = check(op, np.array(x))
    assert report.passed, report
    assert (report.compared, report.moved) == (3, 0)


@pytest.mark.parametrize(
    "name",
    ["cross_entropy_40_above", "softmax_summed", "renormalised_top_2_summed", "layer_norm_summed", "all_saturated_40"],
)
def test_zero_slopes_are_no_mistake(name):
    for seed in range(2):
        f, inputs = ZOO[name](np.random.default_rng(seed))
        gradcheck(f, inputs).raise_if_failed()


def test_saturated_entries_are_compared_where_they_are_not():
    f, inputs = ZOO["cross_entropy_40_above"](np.random.default_rng(0))
    report = gradcheck(f, inputs)
    assert report.moved >= 12
    assert HIDDEN in report.notes[0]


@pytest.mark.parametrize("name", ["x_abs_x", "squared_relu", "elu_at_zero", "huber_at_its_joint", "sin_of_1e4"])
def test_no_kink_is_claimed_of_a_function_without(name):
    for seed in range(2):
        f, inputs = ZOO[name](np.random.default_rng(seed))
        assert "kink" not in str(gradcheck(f, inputs))


# --- sentences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [2e-6, 1e-5, 3e-4])
def test_no_factor_of_1(off):
    diagnosis = check(spoiled(Square, lambda self, dx, grad: dx * (1 + off))).mismatches[0].diagnosis
    number = float(diagnosis.split("by a factor ")[1].split()[0])
    assert number - 1 == pytest.approx(off, rel=0.1)


def test_cancellation_is_not_called_float32():
    for seed in range(10):
        f, inputs = ZOO["cancelling_eight"](np.random.default_rng(seed))
        report = gradcheck(f, inputs)
        assert report.passed, report
        assert "float32" not in str(report)


def test_a_flat_stretch_is_not_called_independence():
    class Relu(Function):
        def forward(self, x):
            return np.maximum(x, 0)

        def backward(self, grad):
            return grad

    assert "the output is flat where the input is negative" in check(Relu).mismatches[0].diagnosis


def test_wrong_for_zero_rows_alone_is_said():
    def spoil(self, dx, grad):
        return dx * 1.5 if (~grad.any(axis=-1)).any() else dx

    assert check(spoiled(Softmax, spoil)).mismatches[0].diagnosis.startswith("right for a dense upstream gradient")


# --- state and ownership ------------------------------------------------------------------------------------


def test_state_in_either_order_is_found():
    for last in (True, False):
        kept = []

        class Stacked(Function):
            def forward(self, x, kept=kept):
                kept.append(x)
                del kept[:-2]  # what no backward took
                return x * x

            def backward(self, grad, kept=kept, last=last):
                return 2 * kept[-1 if last else 0] * grad

        assert "state is shared between passes" in str(check(Stacked))


def test_what_the_first_pass_left_behind_is_found():
    kept = {}

    class Stale(Square):
        def backward(self, grad):
            return 2 * kept.setdefault("x", self.saved[0].copy()) * grad

    assert not check(Stale).passed


def test_function_that_depends_on_earlier_inputs_is_refused():
    total = np.zeros(5)

    class Running(Square):
        def forward(self, x):
            total[:] = 0.9 * total + 0.1 * x.mean(axis=0) if total.any() else x.mean(axis=0)
            return super().forward(x) + total

    report = check(Running)
    assert "keeps something from one run to the next" in str(report) or "not deterministic" in str(report)


def test_buffer_that_is_returned_twice_is_found():
    buffer = np.zeros((4, 5))

    class Buffered(Square):
        def backward(self, grad):
            return np.multiply(2 * self.saved[0], grad, out=buffer)

    assert "a later backward overwrites the gradient that this one returned" in str(check(Buffered))


def test_second_walk_of_one_graph_must_repeat_the_first():
    class Spent(Function):
        def forward(self, x):
            self.y = np.exp(x)
            return self.y.copy()

        def backward(self, grad):
            self.y *= grad
            return self.y

    assert "a second backward through the same graph gives a different gradient" in str(check(Spent))


def test_small_upstream_gradients_are_not_dropped():
    op = spoiled(Square, lambda self, dx, grad: np.where(abs(grad) < 1e-7, 0, dx))
    assert "backward is not linear" in str(check(op))


def test_rounding_of_outputs_is_measured_by_output():
    def f(x):
        return x * 1e8, x + 3e4 - 3e4

    point = Point(f, [X], ["x"], np.random.default_rng(0))
    assert point.rounding[: X.size].max() < 1e-7
    assert 1e-13 < point.rounding[X.size :].max() < 1e-10


# --- clusters of kinks, rounding that comes and goes, steps out of the domain ---------------------------------


class Sort(Function):
    def forward(self, x):
        self.order = np.argsort(x, axis=-1)
        return np.sort(x, axis=-1)

    def backward(self, grad):
        return np.take_along_axis(grad, np.argsort(self.order, axis=-1), axis=-1)


@pytest.mark.parametrize("gap", [1e-5, 1e-6, 3e-9])
def test_kinks_closer_than_any_step_are_no_mistake(gap):
    for seed in range(8):
        x = 1 + gap * np.random.default_rng(seed).standard_normal((3, 7))
        check(Sort, x).raise_if_failed()


@pytest.mark.parametrize("scale", [1e-6, 1e-5, 1e-4])
def test_absorbed_changes_are_no_flat_stretch(scale):
    class OneMinusCos(Function):
        def forward(self, x):
            self.save(x)
            return 1 - np.cos(x)

        def backward(self, grad):
            return grad * np.sin(self.saved[0])

    for seed in range(12):
        x = scale * np.random.default_rng(seed).standard_normal(7)
        check(OneMinusCos, x).raise_if_failed()
        assert not check(spoiled(OneMinusCos, lambda self, dx, grad: 1.01 * dx), x).passed


def test_rounding_that_a_few_lines_miss_is_measured():
    class Entropy(Function):  # of softmax: the large log-sum-exp makes small ones jump by whole units in its last place
        def forward(self, x):
            m = x.max(axis=-1, keepdims=True)
            log_p = x - (m + np.log1p((np.exp(x - m) * (x < m)).sum(axis=-1, keepdims=True)))
            return -(np.exp(log_p) * log_p).sum(axis=-1)

    x = np.array([[-1.64, 12.78, -0.93, -6.84, 0.42]])
    missed = 0
    for seed in range(200):
        missed += Point(lambda x: Entropy.apply(x), [x], ["x"], np.random.default_rng(seed)).rounding[0] < 1e-17
    assert missed < 10  # one line in three misses it, and the first look takes three


def test_a_step_out_of_the_domain_may_raise():
    class Root(Function):
        def forward(self, x):
            if (x < 0).any():
                raise ValueError("the root needs x >= 0")
            self.save(x)
            return np.sqrt(x)

        def backward(self, grad):
            return 0.5 * grad / np.sqrt(self.saved[0])

    check(Root, np.array([1e-9, 0.5, 2.0, 1e-3])).raise_if_failed()
    assert "too large by a factor 2" in str(
        check(spoiled(Root, lambda self, dx, grad: 2 * dx), np.array([1e-9, 0.5, 2.0]))
    )


# --- more sentences ---------------------------------------------------------------------------------------------


def test_of_a_random_backward_nothing_else_is_said():
    noise = np.random.default_rng(0)
    counted = []

    def random(self, dx, grad):
        return dx * (1 + 1e-3 * noise.standard_normal(dx.shape))

    def counting(self, dx, grad):
        counted.append(1)
        return dx * (1 if len(counted) < 2 else len(counted))

    def alternating(self, dx, grad):
        counted.append(1)
        return dx * (1.1 if len(counted) % 2 else 1)

    for spoil in (random, counting, alternating):
        report = check(spoiled(Square, spoil))
        assert report.problems == [
            "x: a second backward, on a fresh graph, gives a different gradient: "
            "it is random, or counts something from pass to pass"
        ]
        assert not report.mismatches


def test_a_factor_is_claimed_only_if_it_explains_the_error():
    for seed in range(8):
        x = np.random.default_rng(seed).standard_normal(3)
        off = spoiled(Square, lambda self, dx, grad: dx * (1 + 1e-5 * np.sin(self.saved[0])))
        assert "by a factor" not in str(check(off, x))


def test_a_missing_term_is_not_claimed_of_one_wrong_entry():
    op = spoiled(Square, lambda self, dx, grad: dx * (1 + 2e-5 * (self.saved[0] < 0)))
    for seed in range(20):
        assert "a term is missing" not in str(check(op, np.random.default_rng(seed).standard_normal(3)))


def test_a_diagonal_is_not_called_overwriting_alone():
    op = spoiled(Softmax, lambda self, dx, grad: self.saved[0] * (1 - self.saved[0]) * grad)
    assert "only one arrives: perhaps the diagonal of the Jacobian, or" in str(check(op))


def test_float32_is_suspected_only_of_errors_of_its_size():
    op = spoiled(Square, lambda self, dx, grad: dx * (1 + 1.5e-3 * np.sin(np.arange(20.0).reshape(4, 5))))
    assert "float32" not in str(check(op))


def test_more_indices_than_are_shown_are_hinted_at():
    x = np.random.default_rng(0).standard_normal((11, 2))
    op = spoiled(Square, lambda self, dx, grad: dx * (1 + (np.arange(11) > 0))[:, None])
    assert "wrong only at indices [1, 2, 3, 4, 5, 6, 7, 8, ...] of axis 0" in str(check(op, x))
