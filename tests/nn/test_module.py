import numpy as np
import pytest

from moe_numpy.nn import Buffer, Module, Parameter
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


class Counter(Module):
    """Counts optimizer steps in a buffer."""

    def __init__(self):
        self.weight = Parameter(np.zeros(2))
        self.steps = Buffer(np.zeros(1))

    def after_step(self):
        self.steps.data = self.steps.data + 1


class TwoCounters(Module):
    def __init__(self):
        self.offset = Buffer(np.zeros(3))
        self.pair = [Counter(), Counter()]


def test_modules_are_named_by_the_prefix_of_their_parameters():
    tree = Tree()
    named = dict(tree.named_modules())
    assert list(named) == ["", "first.", "layers.0.", "layers.1.", "pair.0."]
    assert named[""] is tree
    assert named["layers.1."] is tree.layers[1]
    assert [path for path, _ in tree.named_modules("model.")][:2] == ["model.", "model.first."]


def test_buffers_are_state_but_not_trained():
    model = TwoCounters()
    assert [name for name, _ in model.named_buffers()] == ["offset", "pair.0.steps", "pair.1.steps"]
    assert [name for name, _ in model.named_parameters()] == ["pair.0.weight", "pair.1.weight"]
    assert list(model.state_dict()) == ["pair.0.weight", "pair.1.weight", "offset", "pair.0.steps", "pair.1.steps"]
    assert model.num_parameters() == 4
    assert not model.offset.requires_grad
    assert Buffer(np.zeros(1), name="count").name == "count"
    assert Parameter(np.zeros(1), name="scale").name == "scale"


def test_after_step_reaches_every_module_below_once():
    model = TwoCounters()
    model.after_step()
    model.after_step()
    assert [counter.steps.data.tolist() for counter in model.pair] == [[2], [2]]


def test_buffers_are_loaded_by_copy_and_checked_like_parameters():
    source, target = TwoCounters(), TwoCounters()
    source.after_step()
    state = source.state_dict()
    target.load_state_dict(state)
    assert target.pair[1].steps.data.tolist() == [1]
    state["pair.1.steps"][:] = 7
    assert target.pair[1].steps.data.tolist() == [1]
    with pytest.raises(ValueError, match=r"missing \['offset'\], unknown \[\]"):
        target.load_state_dict({name: array for name, array in state.items() if name != "offset"})


def test_train_and_eval_reach_everything_below():
    tree = Tree()
    assert tree.training
    assert tree.eval() is tree
    assert not tree.training
    assert not tree.layers[1].training
    assert not tree.pair[0].training
    tree.train()
    assert tree.layers[1].training


def test_calling_runs_forward_and_zero_grad_clears():
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


def test_to_casts_parameters_and_leaves_buffers():
    tree = Tree()
    tree.first.weight.grad = np.ones(1)
    kept = {name: b.dtype for name, b in tree.named_buffers()}
    assert tree.to(dtype=np.float16) is tree
    assert {p.dtype for p in tree.parameters()} == {np.dtype(np.float16)}
    assert {name: b.dtype for name, b in tree.named_buffers()} == kept
    assert tree.first.weight.grad is None
    data = tree.first.weight.data
    assert tree.to("cpu").first.weight.data is data


def test_to_refuses_a_type_that_is_not_floating_point():
    with pytest.raises(TypeError, match="dtype must be a floating-point type, got"):
        Tree().to(dtype=np.int64)
