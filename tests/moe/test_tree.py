"""Trees of experts of any depth, and the losses over their leaves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import HierarchicalMoE, MoE, Recipe, RouterConfig, make_layer, recipes
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.losses import SquaredCV
from moe_numpy.moe.selection import TopK
from moe_numpy.moe.sharding import share_experts
from moe_numpy.moe.tree_losses import TreeImportance, TreeLoad, importance_of_leaves, load_of_leaves
from moe_numpy.parallel import Alone

D = 5


def tree(groups, num_experts, *, seed=0, **of_recipe):
    recipe = recipes.hierarchical(groups=groups, **of_recipe)
    return make_layer(recipe, D, 6, num_experts, rng=np.random.default_rng(seed), dtype=np.float64)


def tokens(n, seed=1):
    return Tensor(np.random.default_rng(seed).standard_normal((n, D)), requires_grad=True)


def softmax(h):
    e = np.exp(h - h.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def leaves(layer, row, k, path=1.0, first=0):
    """By the definition: (expert of all, product of gates on the path, its answer) for one row."""
    below = [layer.experts] * layer.num_experts if isinstance(layer, MoE) else layer.groups
    h = layer.router.weight.data @ row
    chosen = range(len(h)) if k is None else np.argsort(-h, kind="stable")[: min(k, len(h))]
    gates = dict(zip(chosen, softmax(h[list(chosen)]), strict=True))
    size = layer.num_experts // len(below)
    for i, gate in gates.items():
        if isinstance(layer, MoE):
            offsets = np.repeat([0, 1], [i + 1, layer.num_experts - i])  # the row goes to expert i
            yield first + i, path * gate, layer.experts(Tensor(row[None]), offsets).data[0]
        else:
            yield from leaves(below[i], row, k, path * gate, first + i * size)


@settings(max_examples=25)
@given(
    groups=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    last=st.integers(1, 3),
    k=st.sampled_from([None, 1]),
    n=st.integers(0, 6),
)
def test_every_expert_has_the_product_of_the_gates_on_its_path(groups, last, k, n):
    num_experts = int(np.prod(groups)) * last
    layer = tree(tuple(groups), num_experts, top_k=k).eval()
    x = tokens(n)
    y, routing = layer(x)
    importance = np.zeros(num_experts)
    for t in range(n):
        found = list(leaves(layer, x.data[t], k))
        np.testing.assert_allclose(y.data[t], sum(gate * answer for _, gate, answer in found), rtol=1e-9, atol=1e-12)
        for expert, gate, _ in found:
            importance[expert] += gate
    np.testing.assert_allclose(importance_of_leaves(routing).data, importance, rtol=1e-9, atol=1e-12)
    if k is not None:  # without noise, counts: with one expert a token, those of the paths
        counts = np.zeros(num_experts)
        for t in range(n):
            counts[next(leaves(layer, x.data[t], k))[0]] += 1
        np.testing.assert_allclose(load_of_leaves(routing).data, counts, atol=1e-9)


@pytest.mark.parametrize("groups", [(2,), (2, 2)])
def test_losses_of_the_leaves(groups):
    layer, x = tree(groups, 8, top_k=2), tokens(9)
    _, routing = layer(x, np.random.default_rng(2))
    assert list(routing.losses) == ["importance", "load"]
    parts = importance_of_leaves(routing), load_of_leaves(routing)
    assert [v.shape for v in parts] == [(8,), (8,)]
    expected = [SquaredCV.apply(v).item() for v in parts]
    assert [loss.item() for loss in routing.losses.values()] == pytest.approx(expected)
    assert routing.auxiliary_loss.item() == pytest.approx(0.1 * sum(expected))
    assert parts[0].data.sum() == pytest.approx(9)  # the gates of a token sum to 1 on every level
    routing.auxiliary_loss.backward()
    routers = [module for _, module in layer.named_modules() if hasattr(module, "noise_weight")]
    assert len(routers) == (3 if groups == (2,) else 7)
    assert all(np.abs(router.weight.grad).max() > 0 for router in routers)


def test_hash_tables_differ_from_level_to_level():
    layer = make_layer(replace(recipes.hash_(), groups=(2, 2)), D, 6, 8, rng=np.random.default_rng(0))
    below = layer.groups[0]
    assert len({part.router.config.selection.seed for part in (layer, below, below.groups[0])}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": (2, 0)}, r"groups must be numbers of branches, each at least 1, got \(2, 0\)"),
        ({"groups": (), "tree_losses": (TreeLoad(),)}, "tree_losses need groups, and a router without capacity"),
    ],
)
def test_bad_trees_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(RouterConfig(TopK(1)), **settings)
    with pytest.raises(ValueError, match="tree_losses need groups, and a router without capacity"):
        Recipe(RouterConfig(TopK(1), capacity=Capacity(1.0)), groups=(2,), tree_losses=(TreeImportance(),))


@pytest.mark.parametrize(("groups", "level"), [((5,), "8, got 5"), ((2, 3), "4, got 3")])
def test_branches_that_do_not_divide_the_experts(groups, level):
    with pytest.raises(ValueError, match=f"groups must divide num_experts={level}"):
        tree(groups, 8)


def test_losses_of_a_tree_need_one_process():
    with pytest.raises(ValueError, match=r"the losses of a tree \(TreeImportance, TreeLoad\) are those of one process"):
        share_experts(tree((2,), 8, top_k=2), Alone())


def test_a_tree_is_a_module_of_modules():
    layer = tree((2, 2), 8)
    assert isinstance(layer.groups[0], HierarchicalMoE)
    assert isinstance(layer.groups[0].groups[1], MoE)
    assert layer.active_parameters() == layer.num_parameters()  # dense
    sparse = tree((2, 2), 8, top_k=1)
    assert sparse.active_parameters() < sparse.num_parameters()
