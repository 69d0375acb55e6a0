import numpy as np
import pytest

from moe_numpy.autodiff import Tensor, substitute
from moe_numpy.ops import Add

A = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
B = np.array([[0.5, -1.0], [2.0, 8.0]], np.float32)

BOTH_WAYS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "@": lambda a, b: a @ b,
}
ONE = {
    "-x": lambda x: -x,
    "**": lambda x: x**3,
    "[]": lambda x: x[1, ::-1],
    "sum": lambda x: x.sum(),
    "sum axis": lambda x: x.sum(0, keepdims=True),
    "mean": lambda x: x.mean(axis=-1),
    "max": lambda x: x.max(1),
    "reshape": lambda x: x.reshape(4),
    "reshape tuple": lambda x: x.reshape((1, -1)),
    "transpose": lambda x: x.transpose(),
    "transpose axes": lambda x: x.transpose(0, 1),
    "transpose tuple": lambda x: x.transpose((1, 0)),
    "T": lambda x: x.T,
}


@pytest.mark.parametrize("f", BOTH_WAYS.values(), ids=BOTH_WAYS)
def test_binary_operators_with_tensors_and_arrays_on_either_side(f):
    for y in (f(Tensor(A), Tensor(B)), f(Tensor(A), B), f(A, Tensor(B))):
        assert isinstance(y, Tensor)
        np.testing.assert_array_equal(y.data, f(A, B))


@pytest.mark.parametrize("f", [BOTH_WAYS[name] for name in "+-*/"], ids="+-*/")
@pytest.mark.parametrize("number", [2, 0.3])
def test_binary_operators_with_numbers_keep_float32(f, number):
    for y, expected in ((f(Tensor(A), number), f(A, number)), (f(number, Tensor(A)), f(number, A))):
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y.data, expected)


@pytest.mark.parametrize("f", ONE.values(), ids=ONE)
def test_unary_operators_and_methods_are_numpys(f):
    x = Tensor(A, requires_grad=True)
    y = f(x)
    np.testing.assert_array_equal(y.data, f(A))
    assert y.dtype == np.float32
    y.backward(np.ones(y.shape, np.float32))
    assert x.grad.shape == A.shape


@pytest.mark.parametrize("name", ["exp", "log", "sqrt"])
def test_functions_as_methods(name):
    np.testing.assert_array_equal(getattr(Tensor(A), name)().data, getattr(np, name)(A))


def test_iteration_yields_rows():
    np.testing.assert_array_equal([row.data for row in Tensor(A)], A)


def test_operators_follow_a_substitution():
    class AddOne(Add):
        def forward(self, a, b):
            return a + b + 1

    with substitute(Add, AddOne):
        np.testing.assert_array_equal((Tensor(A) + B).data, A + B + 1)
    np.testing.assert_array_equal((Tensor(A) + B).data, A + B)
