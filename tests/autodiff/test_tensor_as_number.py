"""A Tensor where Python or NumPy expects a number, a truth value, a sequence or an operand."""

import copy

import jaxtyping
import numpy as np
import pytest

import moe_numpy.ops  # noqa: F401 (attaches the operators)
from moe_numpy.autodiff import Tensor
from moe_numpy.ops import Affine, CrossEntropy, MatMul, Softmax, TakeAlongAxis, Where

X = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])


@pytest.fixture
def unchecked(monkeypatch):
    """No run-time shape checks, so that bad input meets the errors of the library itself, as a user would."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def leaf(data=X):
    return Tensor(data, requires_grad=True)


def test_one_entry_is_a_number():
    t = Tensor([[2.5]])
    assert (float(t), int(t), bool(t), f"{t:.3f}", f"{Tensor(7):03d}") == (2.5, 2, True, "2.500", "007")


@pytest.mark.parametrize("convert", [float, int, lambda t: f"{t:.3f}", lambda t: t.item()])
@pytest.mark.parametrize("shape", [(2, 3), (0,)])
def test_several_entries_are_no_number(convert, shape):
    with pytest.raises(ValueError, match=r"one number is needed, this Tensor has shape \("):
        convert(Tensor(np.ones(shape)))


def test_formatting_without_a_format_is_str():
    assert f"{Tensor([1.0, 2.0])}" == str(Tensor([1.0, 2.0]))


def test_the_truth_of_no_entries_is_ambiguous():
    with pytest.raises(ValueError, match=r"shape \(0,\) is ambiguous"):
        bool(Tensor(np.ones(0)))


@pytest.mark.parametrize("other", [1.0, X[0], [1.0, -2.0, 3.0], Tensor(X), np.float32(1), True])
def test_comparisons_are_made_entry_by_entry(other):
    array = other.data if isinstance(other, Tensor) else np.asarray(other)
    t = leaf()
    for found, expected in (
        (t == other, array == X),
        (t != other, array != X),
        (t < other, array > X),
        (t <= other, array >= X),
        (t > other, array < X),
        (t >= other, array <= X),
        (array == t, array == X),
        (array < t, array < X),
    ):
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("other", [None, "a", object(), {}])
def test_comparing_with_anything_else_is_an_error_not_false(other):
    with pytest.raises(TypeError, match="compared with numbers and arrays, entry by entry, not with"):
        _ = leaf() == other


def test_membership_and_iteration():
    t = leaf()
    assert 5.0 in t
    assert 7.0 not in t
    assert [row.data.tolist() for row in t] == X.tolist()
    first, _ = t
    first.sum().backward()
    assert t.grad.tolist() == [[1, 1, 1], [0, 0, 0]]
    with pytest.raises(TypeError, match="without axes"):
        list(Tensor(1.0))


def test_abs_min_var_and_std():
    t = leaf()
    np.testing.assert_array_equal(abs(t).data, abs(X))
    np.testing.assert_array_equal(t.min(axis=1).data, X.min(axis=1))
    assert t.min(keepdims=True).data.tolist() == [[-6.0]]
    assert Tensor(np.array([0, 5], np.uint8)).min().item() == 0
    for axis in (None, 1, (0, 1), np.int64(0)):
        np.testing.assert_allclose(t.var(axis=axis).data, X.var(axis=axis))
        np.testing.assert_allclose(
            t.std(axis=axis, ddof=1, keepdims=True).data, X.std(axis=axis, ddof=1, keepdims=True)
        )
    with pytest.raises(ValueError, match=r"more than ddof=2 entries along axis 0, got shape \(2, 3\)"):
        t.var(axis=0, ddof=2)


def test_the_lowest_index_takes_the_gradient_of_equal_minima_and_abs_of_0_has_none():
    t = leaf(np.array([2.0, 1.0, 1.0]))
    t.min().backward()
    assert t.grad.tolist() == [0, 1, 0]
    z = leaf(np.array([-1.0, 0.0, 1.0]))
    abs(z).backward(np.array([1.0, np.inf, 1.0]))
    assert z.grad.tolist() == [-1, 0, 1]


@pytest.mark.parametrize("exponent", [2, np.int64(2), np.float32(2), np.float64(2)])
def test_powers_take_numbers_of_numpy(exponent):
    y = Tensor(np.float32([3.0]), requires_grad=True) ** exponent
    assert (y.dtype, y.item()) == (np.float32, 9.0)


def test_a_tensor_as_exponent_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"must be a number, got Tensor; .* write \(p \* x\.log\(\)\)\.exp\(\)"):
        leaf() ** leaf()


@pytest.mark.parametrize("other", ["a", None, {}])
def test_operators_with_anything_else_name_both_types(other):
    with pytest.raises(TypeError, match=r"unsupported operand type\(s\) for \+: 'Tensor' and"):
        leaf() + other


def test_indexing_by_tensors_lists_and_numpy_numbers():
    t = leaf()
    index = Tensor([1, 0, 1])
    np.testing.assert_array_equal(t[index].data, X[[1, 0, 1]])
    np.testing.assert_array_equal(t[Tensor(X > 0)].data, X[X > 0])
    np.testing.assert_array_equal(t[t > 0].data, X[X > 0])
    np.testing.assert_array_equal(t[:, [0, 2]].data, X[:, [0, 2]])
    np.testing.assert_array_equal(t[np.int64(1), Tensor(2)].data, X[1, 2])
    np.testing.assert_array_equal(t[[]].data, X[[]])
    t[[1, 1], Tensor([0, 0])].sum().backward()
    assert t.grad.tolist() == [[0, 0, 0], [2, 0, 0]]


def test_lists_and_arrays_stand_where_tensors_do():
    t = leaf()
    np.testing.assert_array_equal((t * [1, 2, 3]).data, X * [1, 2, 3])
    np.testing.assert_array_equal(([1, 2, 3] - t).data, [1, 2, 3] - X)
    np.testing.assert_array_equal((t @ [1.0, 0.0, 0.0]).data, X[:, 0])
    assert Softmax.apply([[1.0, 2.0]]).dtype == np.float32
    assert Affine.apply(t, [[1.0, 1.0, 1.0]], None).data.tolist() == [[2.0], [3.0]]
    assert Where.apply([True, False, True], t, 0.0).data.tolist() == [[1, 0, 3], [4, 0, -6]]
    assert TakeAlongAxis.apply(t, [[0], [1]], axis=1).data.tolist() == [[1], [5]]
    CrossEntropy.apply(t, [0, 1]).backward()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("a", "Softmax: input 0 must be a Tensor, an array or a number, got 'a'"),
        ({}, "Softmax: input 0 must be a Tensor, an array or a number, got {}"),
        ([[1.0], [1.0, 2.0]], "rows of one length"),
        (["a"], "Tensor needs numbers, got list of dtype <U1"),
        (None, "Tensor needs numbers, got NoneType"),
    ],
)
def test_an_input_of_another_kind_is_named(x, message, unchecked):
    with pytest.raises(TypeError, match=message):
        Softmax.apply(x)


def test_a_matrix_product_with_a_number_is_refused(unchecked):
    with pytest.raises(ValueError, match="both sides need at least one axis"):
        MatMul.apply(leaf(), 2.0)


def test_arrays_that_are_not_plain():
    assert type(Tensor(np.zeros((1, 2)).view(np.matrix)).data) is np.ndarray
    with pytest.raises(TypeError, match="got a masked one"):
        Tensor(np.ma.array([1.0, 2.0], mask=[False, True]))
    for array in (np.array([1j]), np.array(["a"]), np.array([None]), np.array(["2020-01-01"], "M8[D]")):
        with pytest.raises(TypeError, match="Tensor needs numbers, got an array of dtype"):
            Tensor(array)
    with pytest.raises(TypeError, match=r"got a Tensor; use its \.data, or \.detach\(\)"):
        Tensor(leaf())


def test_swapped_bytes_become_those_of_this_machine():
    x = Tensor(X.astype(">f4"), requires_grad=True)
    assert x.dtype == np.float32
    assert x.dtype.isnative
    Softmax.apply(X.astype(">f8") * x).backward(np.ones((2, 3)))
    assert x.grad.dtype == np.float32


def test_tensors_are_copied_with_their_gradients():
    t = leaf()
    (t * t).sum().backward()
    again = copy.deepcopy(t)
    assert again is not t
    np.testing.assert_array_equal(again.grad, 2 * X)
