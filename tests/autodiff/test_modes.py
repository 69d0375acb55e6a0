"""no_grad and check_finite belong to one thread."""

import threading

import numpy as np
import pytest

from moe_numpy.autodiff import Function, NonFiniteError, Tensor, check_finite, no_grad
from moe_numpy.autodiff.modes import modes


class Scale(Function):
    def forward(self, x):
        return 2 * x

    def backward(self, grad):
        return 2 * grad


def leaf():
    return Tensor(np.ones(1), requires_grad=True)


def in_another_thread(action):
    result = []
    thread = threading.Thread(target=lambda: result.append(action()), name="loader")
    thread.start()
    thread.join()
    return result[0]


def test_no_grad_records_nothing():
    with no_grad():
        y = Scale.apply(leaf())
    assert y.function is None
    with pytest.raises(RuntimeError, match=r"Scale made it inside no_grad\(\) in thread 'MainThread'"):
        y.backward()


def test_no_grad_ends_with_the_block_even_on_an_error():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert modes.record_graph
    assert Scale.apply(leaf()).requires_grad


def test_no_grad_nested():
    with no_grad():
        with no_grad():
            pass
        assert not Scale.apply(leaf()).requires_grad


def test_no_grad_as_decorator():
    @no_grad()
    def evaluate():
        return Scale.apply(leaf())

    assert not evaluate().requires_grad
    assert not evaluate().requires_grad
    assert modes.record_graph


def test_no_grad_leaves_other_threads_alone():
    with no_grad():
        assert in_another_thread(lambda: Scale.apply(leaf()).requires_grad)


def test_backward_on_a_result_of_another_threads_no_grad_names_the_thread():
    def work():
        with no_grad():
            return Scale.apply(leaf())

    y = in_another_thread(work)
    with pytest.raises(RuntimeError, match=r"inside no_grad\(\) in thread 'loader'; run the forward pass outside"):
        y.backward()
    assert Scale.apply(leaf()).requires_grad


def test_check_finite_leaves_other_threads_alone_and_ends():
    infinite = Tensor(np.array([np.inf]))
    with check_finite():
        with pytest.raises(NonFiniteError):
            Scale.apply(infinite)
        assert np.isinf(in_another_thread(lambda: Scale.apply(infinite).item()))
    assert np.isinf(Scale.apply(infinite).item())
