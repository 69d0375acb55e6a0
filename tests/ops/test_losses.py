import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.ops import CrossEntropy, LogSoftmax


def test_the_mean_of_minus_log_softmax(rng):
    logits, targets = rng.standard_normal((2, 3, 5)), rng.integers(0, 5, (2, 3))
    expected = -np.take_along_axis(LogSoftmax.apply(logits).data, targets[..., None], -1).mean()
    assert CrossEntropy.apply(logits, targets).item() == pytest.approx(expected)


def test_equal_logits_cost_ln_v():
    assert CrossEntropy.apply(np.zeros((3, 256)), np.array([0, 7, 255])).item() == pytest.approx(np.log(256))


def test_ignored_targets_do_not_count(rng):
    logits = Tensor(rng.standard_normal((4, 5)), requires_grad=True)
    logits.data[1] = np.nan
    loss = CrossEntropy.apply(logits, np.array([0, -100, 2, -100]), ignore_index=-100)
    assert loss.item() == pytest.approx(CrossEntropy.apply(logits.data[[0, 2]], np.array([0, 2])).item())
    loss.backward()
    np.testing.assert_array_equal(logits.grad[[1, 3]], 0)
    assert (logits.grad[[0, 2]] != 0).all()


def test_huge_float32_logits_stay_finite():
    logits = Tensor(np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32), requires_grad=True)
    loss = CrossEntropy.apply(logits, np.array([1, 1]))
    assert loss.dtype == np.float32
    assert loss.item() == 1e4
    loss.backward()
    assert logits.grad.dtype == np.float32
    np.testing.assert_array_equal(logits.grad, [[0.5, -0.5], [0, 0]])


def test_half_precision_logits_give_a_float32_loss(rng):
    x = rng.standard_normal((8, 5)).astype(np.float16)
    logits, targets = Tensor(x, requires_grad=True), rng.integers(0, 5, 8)
    loss = CrossEntropy.apply(logits, targets)
    assert loss.dtype == np.float32
    assert loss.item() == pytest.approx(CrossEntropy.apply(x.astype(np.float64), targets).item(), rel=1e-6)
    loss.backward()
    assert logits.grad.dtype == np.float16


def test_logits_are_left_alone_and_backward_can_run_twice(rng):
    x = rng.standard_normal((4, 5)).astype(np.float32)
    logits = Tensor(x.copy(), requires_grad=True)
    loss = CrossEntropy.apply(logits, np.array([0, 1, 2, 3]))
    loss.backward(retain_graph=True)
    once = logits.grad
    loss.backward()
    np.testing.assert_array_equal(logits.data, x)
    np.testing.assert_array_equal(logits.grad, 2 * once)


@pytest.mark.parametrize("targets", [[0, 5], [-1, 2]])
def test_targets_out_of_range(targets):
    message = f"targets must be between 0 and 4, got values from {targets[0]} to {targets[1]}"
    with pytest.raises(ValueError, match=message):
        CrossEntropy.apply(np.zeros((2, 5)), np.array(targets))


def test_no_target_counts():
    with pytest.raises(ValueError, match=r"none of the 2 targets counts \(ignore_index=-1\)"):
        CrossEntropy.apply(np.zeros((2, 5)), np.array([-1, -1]), ignore_index=-1)


def test_targets_that_are_not_integers(unchecked):
    with pytest.raises(TypeError, match="targets must be integers, got dtype float64"):
        CrossEntropy.apply(np.zeros((2, 5)), np.array([0.0, 1.0]))


def test_targets_of_another_shape(unchecked):
    with pytest.raises(ValueError, match=r"targets must have shape \(2,\), got \(2, 1\)"):
        CrossEntropy.apply(np.zeros((2, 5)), np.array([[0], [1]]))
