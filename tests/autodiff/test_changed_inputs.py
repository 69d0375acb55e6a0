"""Inputs and settings that the caller changes between forward and backward: the right gradient, or an error."""

import numpy as np
import pytest

from moe_numpy.autodiff import Tensor, substitute
from moe_numpy.gradcheck.cases import all_cases
from moe_numpy.ops import CrossEntropy, GetItem, Multiply, TakeAlongAxis, Where

pytestmark = pytest.mark.no_cover

# Only arrays of the first Function are changed: a case for each way to dispatch, or a deeper tree, says nothing new.
SAME = "_loop", "_onehot", "_padded", "of_3_levels"
CASES = {case.name: case for case in all_cases() if not case.name.endswith(SAME)}


def arrays_in(x):
    if isinstance(x, np.ndarray):
        return [x]
    return [a for part in x for a in arrays_in(part)] if isinstance(x, tuple | list) else []


def run(case):
    """The leaves, the outputs, and every array that a Function of the case was given."""
    given = []

    def spy(function):
        def forward(self, *inputs, **settings):
            given.extend(arrays_in(inputs) + arrays_in(tuple(settings.values())))
            return function.forward(self, *inputs, **settings)

        return type(function.__name__, (function,), {"forward": forward, "__module__": "spies"})

    f, inputs = case.build(np.random.default_rng(0))
    leaves = [Tensor(x.copy(), requires_grad=True) for x in inputs]
    with substitute(case.functions[0], spy(case.functions[0])):
        outputs = f(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return leaves, [y for y in outputs if y.requires_grad], [x for x in given if x.size and x.flags.writeable]


def gradients(leaves, outputs):
    for y in outputs:
        y.backward(np.random.default_rng(1).standard_normal(y.shape), retain_graph=True)
    return [x.grad for x in leaves]


@pytest.mark.parametrize("where", [0, -1])
@pytest.mark.parametrize("name", CASES)
def test_every_function_notices_a_changed_input(name, where):
    expected = gradients(*run(CASES[name])[:2])
    for i in range(len(run(CASES[name])[2])):
        leaves, outputs, given = run(CASES[name])
        entry = np.unravel_index(where % given[i].size, given[i].shape)
        before = given[i][entry]
        given[i][entry] = not before if given[i].dtype == bool else before - 1
        try:
            found = gradients(leaves, outputs)
        except RuntimeError as error:
            assert "was changed in place between forward and backward" in str(error)  # noqa: PT017
            continue
        finally:
            given[i][entry] = before  # the cases share some arrays
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "index",
    [
        np.array([0, 1]),
        np.array([True, False, False]),
        (np.array([0, 1]), np.array([1, 1])),
        (slice(None), np.array([0, 1])),
        np.arange(5000) % 3,
    ],
)
def test_a_changed_index_is_noticed(index):
    x = Tensor(np.ones((3, 2)), requires_grad=True)
    y = x[index]
    (index[-1] if isinstance(index, tuple) else index)[:] = 0
    with pytest.raises(RuntimeError, match="GetItem: saved array"):
        y.sum().backward()


def test_a_changed_list_does_not_matter():
    x, index = Tensor(np.ones(3), requires_grad=True), [0, 1]
    y = x[index]
    index[:] = [2, 2]
    y.sum().backward()
    assert x.grad.tolist() == [1, 1, 0]


def test_one_entry_of_a_large_index_mask_or_target_is_noticed():
    """They are summed up in full, whatever their size."""
    n = 20_000
    x = Tensor(np.ones((n, 2)), requires_grad=True)
    indices, mask, targets = np.zeros((n, 1), np.int64), np.ones((n, 2), bool), np.zeros(n, np.int64)
    losses = [
        TakeAlongAxis.apply(x, indices, axis=1).sum(),
        Where.apply(mask, x, 0.0).sum(),
        CrossEntropy.apply(x, targets),
        x[np.arange(n)].sum(),
    ]
    indices[7], mask[7, 1], targets[7] = 1, False, 1
    for loss in losses[:3]:
        with pytest.raises(RuntimeError, match="was changed in place"):
            loss.backward()
    losses[3].backward()


def test_one_entry_of_an_array_of_16_kilobytes_is_noticed():
    a, b = (Tensor(np.ones(2048), requires_grad=True) for _ in range(2))
    y = Multiply.apply(a, b).sum()
    b.data[1001] = 2
    with pytest.raises(RuntimeError, match="Multiply: saved array 1"):
        y.backward()


def test_an_index_made_by_hand_is_noticed_too():
    op, index = GetItem(), np.array([0, 1])
    op.forward(np.ones(3), index=index)
    index[0] = 2
    with pytest.raises(RuntimeError, match="GetItem: saved array 0"):
        op.backward(np.ones(2))
