import numpy as np
import pytest

from moe_numpy.nn import Module, Parameter
from moe_numpy.nn.module import normal


class Leaf(Module):
    def __init__(self, value):
        self.weight = Parameter(np.array([value]))

    def forward(self, x):
        return x * self.weight


class Tree(Module):
    def __init__(self):
        self.bias = Parameter(np.zeros((2, 3)))
        self.first = Leaf(1.0)
        self.layers = [Leaf(2.0), Leaf(3.0)]
        self.pair = (Leaf(4.0), "not a module")
        self.size = 7


def test_parameters_are_named_by_their_path_in_the_order_of_definition():
    tree = Tree()
    names = [name for name, _ in tree.named_parameters()]
    assert names == ["bias", "first.weight", "layers.0.weight", "layers.1.weight", "pair.0.weight"]
    assert tree.num_parameters() == 10


def test_train_and_eval_reach_everything_below():
    tree = Tree()
    assert tree.training
    assert tree.eval() is tree
    assert not tree.training
    assert not tree.layers[1].training
    assert not tree.pair[0].training
    tree.train()
    assert tree.layers[1].training


def test_calling_runs_forward_and_zero_grad_forgets():
    leaf = Leaf(2.0)
    leaf(np.array([3.0])).backward()
    assert leaf.weight.grad.tolist() == [3]
    leaf.zero_grad()
    assert leaf.weight.grad is None


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Tree has no forward"):
        Tree()()


def test_state_goes_from_one_model_to_another_by_copy():
    source, target = Tree(), Tree()
    source.first.weight.data[:] = 9
    target.load_state_dict(source.state_dict())
    assert target.first.weight.data.tolist() == [9]
    source.first.weight.data[:] = 5
    assert target.first.weight.data.tolist() == [9]


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    tree = Tree()
    state = {name: array + 1 for name, array in tree.state_dict().items()}
    with pytest.raises(ValueError, match=r"state does not fit Tree: missing \['bias'\], unknown \['bais'\]"):
        tree.load_state_dict({("bais" if k == "bias" else k): v for k, v in state.items()})
    with pytest.raises(ValueError, match=r"first.weight has shape \(1,\), the state has \(2,\)"):
        tree.load_state_dict(state | {"first.weight": np.zeros(2)})
    assert tree.bias.data.sum() == 0


def test_normal_draws_the_same_numbers_in_every_precision():
    narrow = normal(np.random.default_rng(0), (100, 100), 0.5)
    wide = normal(np.random.default_rng(0), (100, 100), 0.5, np.float64)
    assert narrow.dtype == np.float32
    np.testing.assert_array_equal(narrow.data, wide.data.astype(np.float32))
    assert wide.data.std() == pytest.approx(0.5, rel=0.02)
