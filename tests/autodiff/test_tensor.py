import numpy as np
import pytest

from moe_numpy.autodiff import Function, Tensor


class Scale(Function):
    def forward(self, x):
        return 2 * x

    def backward(self, grad):
        return 2 * grad


def test_data_is_kept_without_a_copy():
    array = np.zeros((2, 3), np.float32)
    x = Tensor(array)
    assert x.data is array
    assert (x.shape, x.dtype, x.ndim, x.size, len(x)) == ((2, 3), np.float32, 2, 6, 2)
    assert x.grad is None
    assert not x.requires_grad


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, np.float32),
        ([1.0, 2.0], np.float32),
        ([1, 2], np.int64),
        (True, np.bool_),
        (np.float64(2), np.float64),
    ],
)
def test_numbers_and_lists(data, dtype):
    x = Tensor(data)
    assert isinstance(x.data, np.ndarray)
    assert x.dtype == dtype


@pytest.mark.parametrize("data", ["text", None, {"a": 1}, [1 + 2j]])
def test_anything_but_numbers_is_refused(data):
    with pytest.raises(TypeError, match="Tensor needs numbers, got"):
        Tensor(data)


def test_requires_grad_needs_floats():
    with pytest.raises(TypeError, match="requires_grad needs floating-point data, got dtype int64"):
        Tensor([1, 2], requires_grad=True)


def test_item():
    assert Tensor([2.5]).item() == 2.5


def test_detach_shares_the_array_and_leaves_the_graph():
    x = Tensor(np.ones(2), requires_grad=True, name="w")
    y = Scale.apply(x).detach()
    assert not y.requires_grad
    assert y.function is None
    assert x.detach().data is x.data
    assert x.detach().name == "w"


def test_backward_of_one_entry_starts_with_1():
    x = Tensor(np.full((1, 1), 3.0), requires_grad=True)
    Scale.apply(x).backward()
    np.testing.assert_array_equal(x.grad, [[2.0]])


def test_backward_of_many_entries_needs_a_gradient():
    y = Scale.apply(Tensor(np.ones(2), requires_grad=True))
    with pytest.raises(RuntimeError, match=r"backward\(\) of shape \(2,\) needs a gradient"):
        y.backward()


def test_backward_takes_a_tensor_as_gradient():
    x = Tensor(np.ones(2), requires_grad=True)
    Scale.apply(x).backward(Tensor(np.array([1.0, 3.0])))
    np.testing.assert_array_equal(x.grad, [2.0, 6.0])


@pytest.mark.parametrize(
    ("gradient", "got"),
    [
        (np.ones(3), r"float64 of shape \(3,\)"),
        (np.ones(2, np.float32), r"float32 of shape \(2,\)"),
        (1.0, "float of shape None"),
    ],
)
def test_gradient_must_fit(gradient, got):
    y = Scale.apply(Tensor(np.ones(2), requires_grad=True))
    with pytest.raises(ValueError, match=rf"gradient must be a float64 array of shape \(2,\), got {got}"):
        y.backward(gradient)


def test_backward_without_a_graph():
    with pytest.raises(RuntimeError, match="nothing that it was computed from has requires_grad=True"):
        Tensor([1.0]).backward()


def test_backward_of_a_leaf_is_the_gradient_itself():
    x = Tensor(np.ones(2), requires_grad=True)
    for _ in range(2):
        x.backward(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(x.grad, [2.0, 4.0])


def test_change_in_place_is_refused():
    x = Tensor([1.0, 2.0])
    with pytest.raises(TypeError, match="cannot be changed in place"):
        x[0] = 3.0


def test_silent_conversion_to_an_array_is_refused():
    with pytest.raises(TypeError, match=r"use \.data"):
        np.asarray(Tensor([1.0]))


def test_truth_is_that_of_the_single_entry():
    assert Tensor([1.0])
    assert not Tensor([0.0])
    with pytest.raises(ValueError, match="ambiguous"):
        bool(Tensor([1.0, 2.0]))


def test_tensors_are_hashable_by_identity():
    a, b = Tensor([1.0]), Tensor([1.0])
    assert len({a, b, a}) == 2


def test_repr():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True, name="w")
    assert repr(x) == "Tensor([1. 2.], name='w', requires_grad=True)"
    assert repr(Scale.apply(x)) == "Tensor([2. 4.], made by Scale)"
    assert repr(Tensor(np.zeros(1000))).count("0.") < 10
