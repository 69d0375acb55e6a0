"""The backward walk."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from moe_numpy.autodiff import Function, NonFiniteError, Tensor, check_finite
from moe_numpy.autodiff.graph import undo_broadcasting


class Scale(Function):
    def forward(self, x, *, by=2.0):
        self.by = by
        return x * by

    def backward(self, grad):
        return grad * self.by


class Square(Function):
    def forward(self, x):
        self.save(x)
        return x * x

    def backward(self, grad):
        (x,) = self.saved
        return 2 * x * grad


class Add(Function):
    def forward(self, a, b):
        return a + b

    def backward(self, grad):
        return grad, grad


class Multiply(Function):
    def forward(self, a, b):
        self.save(a, b)
        return a * b

    def backward(self, grad):
        a, b = self.saved
        return grad * b, grad * a


class Split(Function):
    """Two halves, and the index of the largest entry."""

    def forward(self, x):
        n = len(x) // 2
        return x[:n], x[n:], x.argmax()

    def backward(self, first, second, index):
        self.seen = (first, second, index)
        Split.last = self.seen
        return np.concatenate([first, second])


def leaf(*values, dtype=np.float64):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


def test_chain_rule():
    x = leaf(1.0, -3.0)
    Square.apply(Scale.apply(x, by=3.0)).backward(np.array([1.0, 10.0]))
    np.testing.assert_array_equal(x.grad, [18.0, -540.0])


def test_tensor_used_twice_gets_the_sum():
    x = leaf(3.0)
    y = Square.apply(x)
    Multiply.apply(y, Add.apply(y, x)).backward()  # x⁴ + x³
    np.testing.assert_array_equal(x.grad, [4 * 27 + 27])


def test_same_tensor_for_both_inputs():
    x = leaf(5.0)
    Multiply.apply(x, x).backward()
    np.testing.assert_array_equal(x.grad, [10.0])


def test_each_op_runs_backward_once_after_all_its_users():
    order = []

    class Named(Function):
        def forward(self, *inputs, label):
            self.label, self.n = label, len(inputs)
            return sum(inputs)

        def backward(self, grad):
            order.append(self.label)
            return (grad,) * self.n

    x = leaf(1.0)
    a = Named.apply(x, label="a")
    b = Named.apply(a, label="b")
    c = Named.apply(a, b, label="c")
    Named.apply(c, a, b, label="d").backward()
    assert order == ["d", "c", "b", "a"]
    assert x.grad == 4.0


def test_diamonds_do_not_take_exponential_time():
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = Add.apply(y, y)
    y.backward()
    assert x.grad == 2.0**60


CHAIN = """
import numpy as np
from moe_numpy.autodiff import Function, Tensor

class Scale(Function):
    def forward(self, x):
        return 1.0 * x

    def backward(self, grad):
        return 1.0 * grad

x = Tensor(np.ones(1), requires_grad=True)
for walk in (True, False):
    y = x
    for _ in range(100_000):
        y = Scale.apply(y)
    if walk:
        y.backward()
    del y
print(x.grad[0])
"""


def test_chain_of_100_000_ops_walks_backward_and_can_be_dropped_unwalked():
    """In a process of its own: it is quick without run-time shape checks, and may overflow its own stack."""
    result = subprocess.run([sys.executable, "-c", CHAIN], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "1.0"), result.stderr


def test_gradients_accumulate_out_of_place():
    x = leaf(1.0, 2.0)
    given_array = np.array([1.0, 1.0])
    Scale.apply(x).backward(given_array)
    first = x.grad
    Scale.apply(x).backward(given_array)
    np.testing.assert_array_equal(x.grad, [4.0, 4.0])
    np.testing.assert_array_equal(first, [2.0, 2.0])
    np.testing.assert_array_equal(given_array, [1.0, 1.0])


def test_shared_gradient_arrays_are_not_written_to():
    a, b = leaf(1.0), leaf(1.0)
    Add.apply(a, b).backward()
    before = b.grad
    Add.apply(a, a).backward()
    assert a.grad == 3.0
    assert b.grad is before
    assert b.grad == 1.0


def test_only_leaves_keep_grad():
    x = leaf(2.0)
    y = Square.apply(x)
    z = Square.apply(y)
    z.backward()
    for made in (y, z):
        with pytest.warns(UserWarning, match=r"only leaves keep \.grad; this Tensor was made by Square from others"):
            assert made.grad is None
    assert x.grad == 32.0


def test_leaf_without_requires_grad_gets_none():
    x, constant = leaf(2.0), Tensor(np.array([3.0]))
    Multiply.apply(x, constant).backward()
    assert constant.grad is None
    assert x.grad == 3.0


def test_zero_dimensional_gradients_are_arrays():
    x = Tensor(np.array(3.0), requires_grad=True)
    for _ in range(2):
        Add.apply(Square.apply(x), Multiply.apply(x, x)).backward()
    assert isinstance(x.grad, np.ndarray)
    assert x.grad == 24.0


def test_second_backward_is_refused_and_names_the_op():
    x = leaf(2.0)
    y = Square.apply(x)
    y.backward()
    with pytest.raises(RuntimeError, match=r"came to Square a second time.*retain_graph=True"):
        y.backward()
    assert x.grad == 4.0


def test_second_backward_through_a_shared_part_is_refused():
    x = leaf(2.0)
    shared = Square.apply(x)
    one, two = Scale.apply(shared), Scale.apply(shared)
    one.backward()
    with pytest.raises(RuntimeError, match="Square a second time"):
        two.backward()


def test_retain_graph():
    x = leaf(2.0)
    y = Square.apply(x)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad == 8.0


def test_saved_arrays_are_released_during_the_walk():
    alive_at_each_step = []

    class Watched(Function):
        def forward(self, x):
            y = x + 1
            self.save(y)
            refs.append(weakref.ref(y))
            return y

        def backward(self, grad):
            gc.collect()
            alive_at_each_step.append(sum(ref() is not None for ref in refs))
            return grad

    refs = []
    y = leaf(1.0)
    for _ in range(5):
        y = Watched.apply(y)
    last = y.function
    del y
    from moe_numpy.autodiff import graph

    root = Tensor(np.zeros(1))
    root.requires_grad, root.function = True, last
    del last
    graph.backward(root, np.ones(1), False)
    assert alive_at_each_step == [5, 4, 3, 2, 1]


def test_graph_is_freed_without_the_cycle_collector():
    gc.disable()
    try:
        y = Square.apply(leaf(1.0))
        ref = weakref.ref(y.function)
        y.backward()
        del y
        assert ref() is None
    finally:
        gc.enable()


def test_unused_float_outputs_get_zeros_and_integer_outputs_none():
    x = leaf(1.0, 2.0, 3.0, 4.0)
    first, second, index = Split.apply(x)
    assert not index.requires_grad
    assert first.requires_grad
    second.backward(np.array([5.0, 6.0]))
    np.testing.assert_array_equal(x.grad, [0, 0, 5, 6])
    np.testing.assert_array_equal(Split.last[0], [0, 0])
    assert Split.last[2] is None


def test_both_outputs_used():
    x = leaf(1.0, 2.0, 3.0, 4.0)
    first, second, _ = Split.apply(x)
    Multiply.apply(first, second).backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [3, 4, 1, 2])


def test_none_gradients_stop_the_flow():
    calls = []

    class Stop(Scale):
        def backward(self, grad):
            return None

    class Counted(Scale):
        def backward(self, grad):
            calls.append(1)
            return grad

    x, y = leaf(1.0), leaf(1.0)
    Add.apply(Stop.apply(Counted.apply(x)), y).backward()
    assert x.grad is None
    assert y.grad == 1.0
    assert calls == []


def test_none_from_one_user_and_a_gradient_from_another():
    class Stop(Scale):
        def backward(self, grad):
            return None

    x = leaf(3.0)
    middle = Square.apply(x)
    Add.apply(Stop.apply(middle), middle).backward()
    assert x.grad == 6.0


def test_wrong_number_of_gradients():
    class Wrong(Add):
        def backward(self, grad):
            return grad

    with pytest.raises(RuntimeError, match=r"Wrong\.backward returned 1 gradients for 2 inputs"):
        Wrong.apply(leaf(1.0), leaf(2.0)).backward()


def test_wrong_shape():
    class Wrong(Scale):
        def backward(self, grad):
            return grad[:1]

    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match=r"Wrong\.backward: the gradient of input 0 has shape \(1,\), .* \(2,\)"):
        Wrong.apply(x).backward(np.ones(2))
    assert x.grad is None


def test_wrong_dtype():
    class Wrong(Scale):
        def backward(self, grad):
            return grad.astype(np.float64)

    with pytest.raises(RuntimeError, match="has dtype float64, the input has float32 and forward promoted nothing"):
        Wrong.apply(leaf(1.0, dtype=np.float32)).backward()


def test_wrong_library():
    class Wrong(Scale):
        def backward(self, grad):
            return [1.0]

    with pytest.raises(RuntimeError, match=r"the gradient of input 0 is builtins\.list, the input lives in numpy"):
        Wrong.apply(leaf(1.0)).backward()


def test_promotion_is_undone():
    a, b = leaf(1.0, dtype=np.float32), leaf(2.0)
    Multiply.apply(a, b).backward()
    assert a.grad.dtype == np.float32
    assert b.grad.dtype == np.float64


def test_failed_walk_leaves_no_leaf_half_written():
    class Broken(Scale):
        def backward(self, grad):
            raise ZeroDivisionError

    a, b = leaf(1.0), leaf(1.0)
    with pytest.raises(ZeroDivisionError) as error:
        Add.apply(a, Broken.apply(b)).backward()
    assert a.grad is None
    assert "in Broken.backward" in error.value.__notes__


def test_saved_array_changed_in_place():
    x = leaf(1.0, 2.0)
    y = Square.apply(x)
    x.data[0] = 7.0
    with pytest.raises(RuntimeError, match=r"Square: saved array 0 of shape \(2,\) was changed in place"):
        y.backward(np.ones(2))


def test_slice_of_a_large_saved_array_changed_in_place():
    x = Tensor(np.ones((100, 100)), requires_grad=True)
    y = Square.apply(x)
    x.data[:20] *= 2
    with pytest.raises(RuntimeError, match="was changed in place"):
        y.backward(np.ones((100, 100)))


def test_saved_array_changed_after_backward_is_fine():
    x = leaf(1.0)
    Square.apply(x).backward()
    x.data[0] = 7.0
    assert x.grad == 2.0


def test_check_finite_names_the_op_whose_gradient_is_not():
    class Pole(Scale):
        def backward(self, grad):
            return grad * np.inf

    y = Scale.apply(Pole.apply(leaf(1.0)))
    with (
        check_finite(),
        pytest.raises(NonFiniteError, match=r"Pole\.backward produced a non-finite gradient") as e,
    ):
        y.backward()
    assert (e.value.op, e.value.where) == ("Pole", "backward")


def test_finite_gradients_pass_check_finite():
    x = leaf(1.0)
    with check_finite():
        Square.apply(x).backward()
    assert x.grad == 2.0


@given(shapes=arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4), data=st.data())
def test_undo_broadcasting_is_the_adjoint(shapes, data):
    """⟨broadcast(x), g⟩ = ⟨x, undo(g)⟩ for all x and g; whole numbers make it exact."""
    whole = st.integers(-9, 9).map(float)
    shape = shapes.input_shapes[0]
    x = data.draw(arrays.arrays(np.float64, shape, elements=whole))
    g = data.draw(arrays.arrays(np.float64, shapes.result_shape, elements=whole))
    undone = undo_broadcasting(g, shape)
    assert undone.shape == shape
    assert (np.broadcast_to(x, g.shape) * g).sum() == (x * undone).sum()


@given(shapes=arrays.mutually_broadcastable_shapes(num_shapes=2, min_side=1, max_dims=3, max_side=3))
def test_the_engine_undoes_broadcasting(shapes):
    a, b = (Tensor(np.full(shape, 2.0), requires_grad=True) for shape in shapes.input_shapes)
    Add.apply(a, b).backward(np.ones(shapes.result_shape))
    for x in (a, b):
        assert x.grad.shape == x.shape
        assert x.grad.sum() == np.prod(shapes.result_shape)


def test_threads_that_share_a_leaf_lose_no_gradient(monkeypatch):
    class Slow(np.ndarray):
        """Adding takes a while, so that another thread comes in between."""

        def __add__(self, other):
            total = np.asarray(self) + np.asarray(other)
            time.sleep(0.001)
            return total.view(Slow)

    x = leaf(0.0)
    x.grad = np.zeros(1).view(Slow)
    workers = [threading.Thread(target=lambda: [Scale.apply(x).backward() for _ in range(20)]) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert x.grad.item() == 2 * 80
