import types
from collections import OrderedDict, UserDict, UserList, deque
from dataclasses import dataclass

import numpy as np
import pytest

from moe_numpy.nn import Buffer, Module, Parameter
from moe_numpy.nn.module import after_forward, normal


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


@dataclass
class Pair:
    left: Leaf
    right: Parameter


def one():
    return Parameter(np.ones(2))


def array_of(*items):
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: [one(), one()], ["x.0", "x.1"]),
        (lambda: [[one()], [[Leaf(1.0)], (one(),)]], ["x.0.0", "x.1.1.0", "x.1.0.0.weight"]),
        (lambda: (Leaf(1.0), {"a": one()}), ["x.1.a", "x.0.weight"]),
        (lambda: {"up": Leaf(1.0), 3: [one()]}, ["x.3.0", "x.up.weight"]),
        (lambda: OrderedDict(a={"b": {"c": one()}}), ["x.a.b.c"]),
        (lambda: types.MappingProxyType({"a": one()}), ["x.a"]),
        (lambda: deque([one(), Buffer(np.zeros(1))]), ["x.0", "x.1"]),
        (lambda: Pair(Leaf(1.0), one()), ["x.right", "x.left.weight"]),
        (lambda: types.SimpleNamespace(a=[one()]), ["x.a.0"]),
        (lambda: UserList([one()]), ["x.0"]),
        (lambda: UserDict(a=one()), ["x.a"]),
        (lambda: {"a": one(), "b": Leaf(2.0)}.values(), ["x.0", "x.1.weight"]),
        (lambda: [1, "ab", None, np.ones(3), {2: "b"}, {1, 2}, range(10)], []),
    ],
)
def test_parameters_are_found_in_containers_at_any_depth(make, names):
    module = Module()
    module.x = make()
    assert [*module.state_dict()] == names
    other = Module()
    other.x = make()
    for array in module.state_dict().values():
        array[:] = 7
    other.load_state_dict(module.state_dict())
    assert all((array == 7).all() for array in other.state_dict().values())
    assert not [m for m in module.eval().named_modules() if m[1].training]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: {one()}, "set with a Parameter"),
        (lambda: [frozenset([Leaf(1.0)])], "frozenset with a Leaf"),
        (lambda: {"a": array_of(one(), None)}, "ndarray with a Parameter"),
        (lambda: {Buffer(np.zeros(1))}, "set with a Buffer"),
    ],
)
def test_parameters_without_a_name_are_refused_at_once_and_when_appended(make, kind):
    module = Module()
    with pytest.raises(TypeError, match=f"x.* is a {kind} in it, which has no name"):
        module.x = make()
    assert not hasattr(module, "x")
    module.x = []
    module.x.append(Leaf(1.0))
    assert [name for name, _ in module.named_parameters()] == ["x.0.weight"]
    module.x.append(make())
    with pytest.raises(TypeError, match=r"x\.1.* has no name there and would not be trained or saved"):
        module.num_parameters()


def test_parameters_of_the_class_are_refused():
    with pytest.raises(TypeError, match=r"Shared\.weight belongs to the class"):

        class Shared(Module):
            weight = Parameter(np.ones(1))

    with pytest.raises(TypeError, match=r"Listed\.layers belongs to the class"):

        class Listed(Module):
            layers = [[Leaf(1.0)]]  # noqa: RUF012


def test_a_generator_is_refused_since_searching_would_use_it_up():
    module = Module()
    for layers in ((Leaf(1.0) for _ in range(2)), map(Leaf, [1.0]), [zip([Leaf(1.0)], strict=True)]):
        with pytest.raises(TypeError, match="cannot be searched for parameters; make it a list"):
            module.layers = layers


def test_two_parameters_of_one_name_are_refused():
    for other in (one(), Buffer(np.zeros(1))):
        module = Module()
        module.x = {"a.b": one(), "a": {"b": other}}
        with pytest.raises(ValueError, match=r"two of the parameters or buffers are named 'x\.a\.b'"):
            module.state_dict()


def test_a_container_that_holds_itself_and_a_module_that_holds_its_parent_are_searched_once():
    module = Module()
    module.x = [one()]
    module.x.append(module.x)
    module.child = Leaf(1.0)
    module.child.parent = module
    assert [name for name, _ in module.named_parameters()] == ["x.0", "child.weight"]
    module.zero_grad()


class Tied(Module):
    def __init__(self):
        self.embedding = Leaf(2.0)
        self.output = Leaf(3.0)
        self.output.weight = self.embedding.weight
        self.blocks = [Counter()] * 3
        self.again = {"block": self.blocks[0]}


def test_what_is_tied_is_one_parameter():
    model = Tied()
    assert [*model.state_dict()] == ["embedding.weight", "blocks.0.weight", "blocks.0.steps"]
    assert model.num_parameters() == 3
    model.after_step()
    assert model.blocks[0].steps.data.tolist() == [1]
    state = {name: array + 5 for name, array in model.state_dict().items()}
    other = Tied()
    other.load_state_dict(state)
    assert other.output.weight is other.embedding.weight
    assert other.output.weight.data.tolist() == [7]


def test_notes_wait_for_the_outermost_module_and_are_lost_if_it_fails():
    notes = []

    class Inner(Module):
        def forward(self, x):
            after_forward(lambda: notes.append(x))
            return x

    class Outer(Module):
        def __init__(self):
            self.inner = Inner()

        def forward(self, x, fail=False):
            self.inner(x)
            assert x not in notes
            if fail:
                raise KeyboardInterrupt
            return self.inner(x + 1)

    outer = Outer()
    outer(1)
    assert notes == [1, 2]
    with pytest.raises(KeyboardInterrupt):
        outer(3, fail=True)
    outer.inner(5)
    after_forward(lambda: notes.append("outside"))
    assert notes == [1, 2, 5, "outside"]
