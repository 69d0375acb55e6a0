"""Function: apply, save, substitute."""

import threading

import numpy as np
import pytest

from moe_numpy.autodiff import Function, NonFiniteError, Tensor, check_finite, no_grad, substitute
from moe_numpy.autodiff.arrays import library_of
from moe_numpy.autodiff.function import implementation_of


class Square(Function):
    def forward(self, x):
        self.save(x)
        return x * x

    def backward(self, grad):
        (x,) = self.saved
        return 2 * x * grad


class Cube(Square):
    def forward(self, x):
        self.save(x)
        return x**3

    def backward(self, grad):
        (x,) = self.saved
        return 3 * x**2 * grad


class Add(Function):
    def forward(self, a, b, *, twice=False):
        return 2 * (a + b) if twice else a + b

    def backward(self, grad):
        return grad, grad


class DeviceArray:
    """An array of another library."""

    __module__ = "otherlib.core"

    def __init__(self, array):
        self.array = array

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)


def leaf(*values, dtype=np.float64):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


def test_runs_by_hand_without_a_tape():
    op = Square()
    np.testing.assert_array_equal(op.forward(np.array([3.0])), [9.0])
    np.testing.assert_array_equal(op.backward(np.array([1.0])), [6.0])
    assert op.needs_grad(0)


def test_forward_and_backward_must_be_written():
    class Empty(Function):
        pass

    with pytest.raises(NotImplementedError, match="Empty has no forward"):
        Empty.apply(leaf(1.0))
    with pytest.raises(NotImplementedError, match="Empty has no backward"):
        Empty().backward(np.ones(1))


def test_apply_makes_a_fresh_instance_each_time():
    x = leaf(1.0)
    assert Square.apply(x).function is not Square.apply(x).function


def test_apply_takes_tensors_arrays_and_numbers():
    assert Add.apply(leaf(1.0), np.array([2.0])).data == 3.0
    assert Add.apply(leaf(1.0), 2).data == 3.0
    assert Add.apply(np.array([1.0]), np.float64(2.0)).data == 3.0
    assert Add.apply(leaf(1.0), 2, twice=True).data == 6.0


def test_settings_are_keyword_only_for_the_engine():
    with pytest.raises(TypeError) as error:
        Add.apply(leaf(1.0), 2, True)
    assert error.value.__notes__ == ["in Add.forward(float64[1], 2, True)"]


def test_error_in_forward_names_op_and_inputs():
    with pytest.raises(ValueError, match="broadcast") as error:
        Add.apply(leaf(1.0, 2.0), np.ones((3, 3), np.float32))
    assert error.value.__notes__ == ["in Add.forward(float64[2], float32[3, 3])"]


def test_float32_stays_float32():
    y = Square.apply(leaf(1.0, 2.0, dtype=np.float32))
    assert y.dtype == np.float32


def test_nothing_is_recorded_without_requires_grad():
    y = Square.apply(Tensor(np.ones(2)))
    assert y.function is None
    assert not y.requires_grad


def test_nothing_is_saved_without_a_graph():
    seen = []

    class Watched(Square):
        def forward(self, x):
            y = super().forward(x)
            seen.append(self.saved)
            return y

    Watched.apply(Tensor(np.ones(2)))
    with no_grad():
        Watched.apply(leaf(1.0))
    Watched.apply(leaf(1.0))
    assert [len(saved) for saved in seen] == [0, 0, 1]


def test_numbers_can_be_saved():
    class Power(Function):
        def forward(self, x, p):
            self.save(x, p)
            return x**p

        def backward(self, grad):
            x, p = self.saved
            return grad * p * x ** (p - 1), None

    x = leaf(3.0)
    Power.apply(x, 2).backward()
    assert x.grad == 6.0


def test_needs_grad_tells_which_inputs_count():
    y = Add.apply(leaf(1.0), Tensor(np.ones(1)))
    assert y.function.needs_grad(0)
    assert not y.function.needs_grad(1)


def test_outputs_as_tuple_stay_a_tuple():
    class Pair(Function):
        def forward(self, x):
            return x, x.argmax()

        def backward(self, grad, index):
            return grad

    y, index = Pair.apply(leaf(1.0, 3.0))
    assert (y.requires_grad, index.requires_grad) == (True, False)
    assert index.item() == 1
    assert index.function is None


def test_mixed_devices_are_refused():
    assert library_of(DeviceArray(np.ones(1))) == "otherlib"
    with pytest.raises(TypeError, match="Add: inputs live in numpy and in otherlib; move them to one device"):
        Add.apply(leaf(1.0), Tensor(DeviceArray(np.ones(1))))


def test_scalars_fit_any_device():
    assert library_of(3) is None
    assert library_of(np.float32(3)) is None
    assert library_of(np.ones(1)) == "numpy"


def test_subclasses_of_numpy_arrays_are_numpy(tmp_path):
    mapped = np.memmap(tmp_path / "weights", dtype=np.float32, mode="w+", shape=(3,))
    assert library_of(mapped) == "numpy"
    assert Add.apply(leaf(1.0, 2.0, 3.0), mapped).shape == (3,)


def test_check_finite_names_the_op():
    class Pole(Square):
        def forward(self, x):
            return x * np.inf

    with check_finite():
        y = Square.apply(leaf(1.0))
        with pytest.raises(NonFiniteError, match=r"Pole\.forward produced a non-finite value in output 0") as error:
            Pole.apply(y)
    assert (error.value.op, error.value.where) == ("Pole", "forward")
    assert isinstance(error.value, FloatingPointError)
    assert not np.isfinite(Pole.apply(y).data).any()


def test_substitute_and_back():
    x = leaf(2.0)
    with substitute(Square, Cube):
        y = Square.apply(x)
        assert implementation_of(Square) is Cube
    assert y.data == 8.0
    y.backward()  # the graph remembers what ran
    assert x.grad == 12.0
    assert Square.apply(x).data == 4.0
    assert implementation_of(Square) is Square


def test_substitute_nested():
    x = leaf(2.0)
    with substitute(Square, Cube):
        with substitute(Square, Square):
            assert Square.apply(x).data == 4.0
        assert Square.apply(x).data == 8.0
    assert Square.apply(x).data == 4.0


def test_substitute_is_restored_after_an_error():
    with pytest.raises(KeyError), substitute(Square, Cube):
        raise KeyError
    assert Square.apply(leaf(2.0)).data == 4.0


def test_substitute_reaches_other_threads():
    seen = []
    with substitute(Square, Cube):
        thread = threading.Thread(target=lambda: seen.append(Square.apply(leaf(2.0)).item()))
        thread.start()
        thread.join()
    assert seen == [8.0]


@pytest.mark.parametrize("bad", [Square(), len, "Square", int])
def test_substitute_takes_function_classes_only(bad):
    with pytest.raises(TypeError, match="Function"), substitute(bad, Cube):
        pass
    with pytest.raises(TypeError, match="Function"), substitute(Square, bad):
        pass
    assert implementation_of(Square) is Square
