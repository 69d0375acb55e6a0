"""Other code in the place of the library's, wherever the library calls it."""

import numpy as np
import pytest

from exercises.training.swap import counted, swapped
from moe_numpy import kernels
from moe_numpy.autodiff import graph
from moe_numpy.autodiff.function import implementation_of
from moe_numpy.moe import dispatch, losses, selection
from moe_numpy.moe.capacity import Capacity
from moe_numpy.ops import Softmax


def other(*args):
    return "other"


def test_a_function_class():
    class Mine(Softmax):
        pass

    with swapped("moe_numpy.ops.activations:Softmax", Mine):
        assert implementation_of(Softmax) is Mine
    assert implementation_of(Softmax) is Softmax


@pytest.mark.parametrize(
    ("target", "look_up"),
    [
        ("moe_numpy.autodiff.graph:undo_broadcasting", lambda: graph.undo_broadcasting),
        ("moe_numpy.moe.capacity:Capacity.fits", lambda: Capacity.fits),
        ("moe_numpy.moe.dispatch:dispatch_sorted", lambda: dispatch.STRATEGIES["sorted"]),
        ("moe_numpy.moe.selection:top_k_candidates", lambda: selection.top_k_candidates),
        ("moe_numpy.moe.selection:top_k_candidates", lambda: losses.top_k_candidates),
    ],
)
def test_a_function_wherever_it_is_looked_up(target, look_up):
    before = look_up()
    with swapped(target, other):
        assert look_up() is other
    assert look_up() is before


@pytest.mark.parametrize("implementation", ["numpy", "numba"])
def test_a_kernel_in_every_implementation(implementation):
    scores = np.zeros((1, 2))
    with kernels.use(implementation), swapped("moe_numpy.kernels.sorting:top_k", other):
        assert kernels.top_k(scores, 1) == "other"
        assert selection.top_k(scores, 1) == "other"
    assert kernels.top_k(scores, 1).tolist() == [[0]]


def test_the_original_comes_back_after_an_error():
    before = graph.undo_broadcasting
    with pytest.raises(KeyError), swapped("moe_numpy.autodiff.graph:undo_broadcasting", other):
        raise KeyError
    assert graph.undo_broadcasting is before


def test_calls_are_counted():
    calls = []
    assert counted(other, lambda: calls.append(1))(1, 2) == "other"
    mine = counted(Softmax, lambda: calls.append(1))
    y = mine().forward(np.zeros((1, 2)), axis=-1)
    assert np.array_equal(y, [[0.5, 0.5]])
    assert len(calls) == 2
