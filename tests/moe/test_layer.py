from dataclasses import replace

import numpy as np
import pytest
from by_hand import combined, expert, sigmoid, softmax

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import HierarchicalMoE, MoE, Recipe, RouterConfig, make_layer, recipes
from moe_numpy.moe.balancers import AdaptiveL1, LossFreeBias
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.dispatch import STRATEGIES
from moe_numpy.moe.gates import Gate, Renormalize
from moe_numpy.moe.losses import SwitchBalance, ZLoss
from moe_numpy.moe.noise import GumbelNoise
from moe_numpy.moe.selection import Hash, Threshold, TopK
from moe_numpy.ops import ReLU

ROUTERS = {
    "mixtral": recipes.mixtral(),
    "switch": recipes.switch(),
    "top2_dropping": recipes.mixtral(capacity_factor=0.5),
    "all_experts": RouterConfig(TopK(4)),
}


def make(router, dispatch="sorted", experts="swiglu", dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return MoE(5, 6, 4, router, experts=experts, dispatch=dispatch, rng=rng, dtype=dtype)


def inputs(*shape, dtype=np.float64, seed=1):
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype), requires_grad=True)


@pytest.mark.parametrize("dispatch", STRATEGIES)
@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_the_layer_is_the_weighted_sum_of_its_experts(router, dispatch):
    layer = make(router, dispatch)
    x = inputs(9, 5)
    y, routing = layer(x, np.random.default_rng(0))
    np.testing.assert_allclose(y.data, combined(layer.experts, x.data, routing), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("experts", ["swiglu", "relu", "gelu", "gpt_oss"])
@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_all_strategies_agree_in_value_and_in_every_gradient(router, experts):
    results = []
    for dispatch in STRATEGIES:
        layer, x = make(router, dispatch, experts), inputs(3, 4, 5)
        y, routing = layer(x, np.random.default_rng(0))
        y.backward(np.random.default_rng(2).standard_normal(y.shape), retain_graph=True)
        if routing.auxiliary_loss is not None:
            routing.auxiliary_loss.backward()
        results.append({"y": y.data, "dx": x.grad} | {name: p.grad for name, p in layer.named_parameters()})
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_allclose(value, other[name], rtol=1e-10, atol=1e-13, err_msg=name)


def test_shared_experts_are_one_wider_network_that_every_token_uses():
    layer = make(Recipe(RouterConfig(TopK(1), gates=()), shared_experts=2))
    assert layer.shared.down.weight.shape == (5, 12)
    x = inputs(7, 5)
    y, routing = layer(x)
    routed = combined(layer.experts, x.data, routing)
    gate, up = x.data @ layer.shared.gate.weight.data.T, x.data @ layer.shared.up.weight.data.T
    always = (gate * sigmoid(gate) * up) @ layer.shared.down.weight.data.T
    np.testing.assert_allclose(y.data, routed + always, rtol=1e-10)
    # Two experts of width 6 with halves of the weights give the same sum.
    halves = sum(
        (gate[:, s] * sigmoid(gate[:, s]) * up[:, s]) @ layer.shared.down.weight.data[:, s].T
        for s in (slice(0, 6), slice(6, 12))
    )
    np.testing.assert_allclose(halves, always, rtol=1e-10)


def test_a_shared_expert_can_be_gated_by_the_token():
    recipe = Recipe(RouterConfig(TopK(1), gates=()), shared_experts=1)
    plain, gated = make(recipe), make(replace(recipe, gated_shared=True))
    x = inputs(7, 5)
    routed = combined(plain.experts, x.data, plain(x)[1])
    always = plain(x)[0].data - routed
    gate = sigmoid(x.data @ gated.shared_gate.weight.data.T)
    assert gate.shape == (7, 1)
    y, _ = gated(x)
    np.testing.assert_allclose(y.data, routed + gate * always, rtol=1e-9, atol=1e-12)
    y.backward(np.ones((7, 5)))
    np.testing.assert_allclose(
        gated.shared_gate.weight.grad, (gate * (1 - gate) * always.sum(axis=1, keepdims=True)).T @ x.data, rtol=1e-8
    )


def test_zero_experts_return_the_token_times_its_gate_weight():
    layer = make(Recipe(RouterConfig(TopK(1), gates=()), zero_experts=12))
    x = inputs(20, 5)
    y, routing = layer(x)
    idle = routing.expert >= 4
    assert 0 < idle.sum() < 20
    np.testing.assert_allclose(y.data[routing.token[idle]], routing.gate.data[idle, None] * x.data[routing.token[idle]])
    busy = routing.token[~idle][0]
    np.testing.assert_allclose(y.data[busy], combined(layer.experts, x.data, routing)[busy])


def test_a_token_without_an_expert_contributes_zero():
    layer = make(recipes.switch(capacity_factor=0.3, eval_capacity_factor=None)).eval()
    y, routing = layer(inputs(12, 5))
    dropped = routing.statistics.dropped.token
    assert 0 < len(dropped) < 12
    np.testing.assert_array_equal(y.data[dropped], 0)
    assert (np.abs(y.data[routing.token]).max(axis=1) > 0).all()


def test_an_idle_expert_gets_a_zero_gradient():
    layer = make(RouterConfig(TopK(1), gates=()))
    y, routing = layer(inputs(1, 5))
    y.backward(np.ones((1, 5)))
    (busy,) = routing.expert.tolist()
    for e in range(4):
        assert (np.abs(layer.experts.down.grad[e]).max() > 0) == (e == busy)


def test_with_capacity_a_token_depends_on_the_other_tokens():
    layer = make(RouterConfig(TopK(1), gates=(), capacity=Capacity(1.0)))
    x = np.tile(np.random.default_rng(0).standard_normal(5), (8, 1))  # eight equal tokens want one expert
    y, _ = layer(Tensor(x))
    assert (np.abs(y.data).max(axis=1) > 0).tolist() == [True, True] + [False] * 6


@pytest.mark.parametrize(
    ("drop", "top_k", "causal"),
    [("position", 1, True), ("position", 2, False), ("probability", 1, False), ("batch_priority", 1, False)],
)
def test_only_first_come_first_served_is_causal(drop, top_k, causal):
    """With two choices even that is not causal: a later first choice takes the place of an earlier second choice."""
    layer = make(RouterConfig(TopK(top_k), gates=(), capacity=Capacity(0.7, drop=drop)))
    moved = False
    for seed in range(20):
        x = inputs(12, 5, seed=seed).data
        later = np.concatenate([x[:8], inputs(4, 5, seed=seed + 100).data])
        moved |= not np.allclose(layer(Tensor(x))[0].data[:8], layer(Tensor(later))[0].data[:8])
    assert moved == (not causal)


@pytest.mark.parametrize("drop", ["position", "probability", "batch_priority"])
def test_a_capacity_of_sequences_is_like_running_each_sequence_alone(drop):
    layer = make(RouterConfig(TopK(2), gates=(), capacity=Capacity(0.6, drop=drop, scope="sequence")))
    x = inputs(3, 8, 5)
    together, routing = layer(x)
    assert len(routing.statistics.dropped) > 0
    alone = [layer(Tensor(sequence[None]))[0].data[0] for sequence in x.data]
    np.testing.assert_allclose(together.data, alone, rtol=1e-10)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_the_leading_axes_are_kept_and_the_last_of_them_is_the_sequence(shape):
    layer = make(recipes.mixtral())
    x = inputs(*shape)
    y, routing = layer(x)
    assert y.shape == shape
    assert routing.trace.batch.sequence_length == (shape[-2] if len(shape) > 1 else 1)
    np.testing.assert_allclose(y.data.reshape(-1, 5), layer(Tensor(x.data.reshape(-1, 5)))[0].data)


def test_an_empty_batch_is_legal():
    layer, x = make(recipes.mixtral()), inputs(0, 5)
    y, routing = layer(x)
    assert y.shape == (0, 5)
    assert routing.num_tokens == 0


@pytest.mark.parametrize("experts", ["swiglu", "relu", "gelu", "gpt_oss"])
@pytest.mark.parametrize("dispatch", STRATEGIES)
def test_float32_in_float32_out(experts, dispatch):
    layer = make(recipes.mixtral(), dispatch, experts=experts, dtype=np.float32)
    x = inputs(7, 5, dtype=np.float32)
    y, _ = layer(x)
    y.backward(np.ones_like(y.data))
    assert {y.dtype, x.grad.dtype, *(p.grad.dtype for p in layer.parameters())} == {np.dtype(np.float32)}


def test_active_parameters_count_the_router_and_k_experts():
    layer = make(recipes.mixtral())
    assert layer.num_parameters() == 4 * 5 + 4 * 3 * 5 * 6
    assert layer.active_parameters() == 4 * 5 + 2 * 3 * 5 * 6
    shared = make(Recipe(RouterConfig(TopK(2)), shared_experts=2, gated_shared=True))
    assert shared.active_parameters() == 4 * 5 + (2 + 2) * 3 * 5 * 6 + 5
    idle = make(Recipe(RouterConfig(TopK(2)), zero_experts=4))  # half of the choices cost nothing
    assert idle.active_parameters() == 8 * 5 + 1 * 3 * 5 * 6
    dense = make(RouterConfig(TopK(4)))
    assert dense.active_parameters() == dense.num_parameters()


@pytest.mark.parametrize("average_k", [1.0, 1.5, 2.0, 4.0, 100.0])
def test_active_parameters_of_remoe_are_those_that_its_balancer_steers_towards(average_k):
    layer = make(recipes.remoe(average_k=average_k))
    assert layer.active_parameters() == 4 * 5 + min(average_k, 4) * 3 * 5 * 6
    assert layer.router.per_token == min(average_k, 4)
    free = make(RouterConfig(Threshold(), gates=(), scores=ReLU))  # nothing says how many
    assert free.active_parameters() == free.num_parameters()
    fixed = make(RouterConfig(TopK(3), balancer=AdaptiveL1(1.0)))
    assert fixed.active_parameters() == 4 * 5 + 3 * 3 * 5 * 6
    config = RouterConfig(Threshold(), gates=(), scores=ReLU, balancer=AdaptiveL1(1.0))
    nested = two_levels(config)
    assert nested.active_parameters() == 3 * 5 + 2 * 5 + 90


def test_hash_routing_has_weight_one_where_its_probability_underflows():
    for dispatch in STRATEGIES:
        layer = make(recipes.hash_(), dispatch)
        x = inputs(16, 5)
        x.data *= 1e5
        ids = np.arange(16)
        y, routing = layer(x, token_ids=ids)
        assert (routing.statistics.scores[routing.token, routing.expert] == 0).any()
        assert (routing.gate.data == 1).all()
        y.backward(np.ones_like(y.data))
        assert not layer.router.weight.grad.any()
        assert np.isfinite(x.grad).all()


def test_the_argument_experts_overrides_the_recipe():
    assert hasattr(make(recipes.switch(), experts=None).experts, "first")
    assert hasattr(make(recipes.switch(), experts="swiglu").experts, "gate_up")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 0}, "d_model must be at least 1, got 0"),
        ({"d_ff": 0}, "d_ff must be at least 1, got 0"),
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"num_experts": 1}, "top_k must be between 1 and num_experts=1, got 2"),
        ({"dispatch": "magic"}, "dispatch must be one of loop, onehot, padded, sorted, exchange, got 'magic'"),
        ({"experts": "relu2"}, "experts must be one of swiglu, relu, gelu, gpt_oss, got 'relu2'"),
        ({"recipe": recipes.soft_moe()}, "describes a tree or a Soft MoE layer; build it with make_layer"),
        ({"recipe": recipes.hierarchical()}, "describes a tree or a Soft MoE layer; build it with make_layer"),
    ],
)
def test_bad_settings_are_named(settings, message):
    good = {"d_model": 5, "d_ff": 6, "num_experts": 4, "recipe": recipes.mixtral()}
    with pytest.raises(ValueError, match=message):
        MoE(**(good | settings), rng=np.random.default_rng(0))


@pytest.mark.parametrize("recipe", [recipes.mixtral(), recipes.hierarchical()], ids=["flat", "hierarchical"])
def test_inputs_that_do_not_fit_are_named(recipe, unchecked):
    layer = make_layer(recipe, 5, 6, 4, rng=np.random.default_rng(0), dtype=np.float64)
    with pytest.raises(ValueError, match=r"x must end in d_model=5, got shape \(2, 4\)"):
        layer(inputs(2, 4))
    with pytest.raises(ValueError, match=r"x must end in d_model=5, got shape \(\)"):
        layer(inputs())
    with pytest.raises(ValueError, match=r"token_ids must have shape \(2, 3\), that of x without d, got \(6,\)"):
        layer(inputs(2, 3, 5), None, np.zeros(6, int))


def test_hash_routing_gets_its_ids_in_the_shape_of_the_batch():
    layer = make(RouterConfig(Hash(10), gates=()))
    ids = np.array([[3, 1, 4], [1, 5, 9]])
    _, routing = layer(inputs(2, 3, 5), token_ids=ids)
    expert_of = dict(zip(routing.token.tolist(), routing.expert.tolist(), strict=True))
    assert expert_of[1] == expert_of[3]


# Two levels


def two_levels(router, dispatch="sorted", num_groups=3, **settings):
    recipe = Recipe(router, groups=(num_groups,), **settings)
    return HierarchicalMoE(5, 6, 6, recipe, dispatch=dispatch, rng=np.random.default_rng(0), dtype=np.float64)


def test_a_sparse_hierarchy_by_hand():
    """Top-1 of the groups, then top-1 in the group; the gate weights are multiplied."""
    layer = two_levels(RouterConfig(TopK(1), gates=()))
    x = inputs(9, 5)
    y, routing = layer(x)
    for t, row in enumerate(x.data):
        outer = softmax(layer.router.weight.data @ row)
        group = layer.groups[outer.argmax()]
        inner = softmax(group.router.weight.data @ row)
        expected = outer.max() * inner.max() * expert(group.experts, inner.argmax(), row)
        np.testing.assert_allclose(y.data[t], expected, rtol=1e-9)
    assert routing.num_experts == 3


@pytest.mark.parametrize("capacity", [None, Capacity(1.0)], ids=["dropless", "capacity"])
def test_strategies_agree_in_two_levels_losses_included(capacity):
    config = RouterConfig(TopK(1), gates=(), capacity=capacity, losses=(SwitchBalance(0.1), ZLoss(0.1)))
    results = []
    for dispatch in STRATEGIES:
        layer, x = two_levels(config, dispatch), inputs(2, 8, 5)
        y, routing = layer(x)
        (y.sum() + routing.auxiliary_loss).backward()
        results.append([y.data, routing.auxiliary_loss.data, x.grad, *(p.grad for p in layer.parameters())])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)


def test_the_losses_of_both_levels_are_named_and_summed():
    layer = two_levels(RouterConfig(TopK(1), gates=(), losses=(SwitchBalance(0.5),)))
    _, routing = layer(inputs(9, 5))
    assert list(routing.losses) == ["balance", "group 0 balance", "group 1 balance", "group 2 balance"]
    assert routing.auxiliary_loss.item() == pytest.approx(0.5 * sum(v.item() for v in routing.losses.values()))
    _, silent = two_levels(RouterConfig(TopK(1), gates=()))(inputs(9, 5))
    assert silent.auxiliary_loss is None
    assert silent.losses == {}


def test_a_group_sees_its_own_tokens_and_no_padding():
    layer = two_levels(RouterConfig(TopK(1), gates=(), losses=(SwitchBalance(), ZLoss())))
    x = inputs(10, 5)
    _, routing = layer(x)
    for g, group in enumerate(layer.groups):
        _, alone = group(Tensor(x.data[routing.token[routing.expert == g]]))
        for name, loss in alone.losses.items():
            assert routing.losses[f"group {g} {name}"].item() == pytest.approx(loss.item())


@pytest.mark.parametrize("where", ["experts", "router"])
def test_an_interrupted_forward_pass_is_not_counted(where, monkeypatch):
    config = RouterConfig(TopK(1), gates=(), losses=(SwitchBalance(scope="global"),), balancer=LossFreeBias(0.1))
    layer, other = two_levels(config), two_levels(config)
    first, second, third = inputs(9, 5, seed=1), inputs(12, 5, seed=2), inputs(10, 5, seed=3)

    def interrupted(*args):
        raise KeyboardInterrupt

    for one in (layer, other):
        one(first)
    with monkeypatch.context() as patch:
        patch.setattr(getattr(layer.groups[2], where), "forward", interrupted)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                layer(second)
    for one in (layer, other):
        one.routing = one(third)[1]
    assert layer.routing.auxiliary_loss.item() == other.routing.auxiliary_loss.item()
    layer.after_step()
    other.after_step()
    for (name, b), (_, expected) in zip(layer.named_buffers(), other.named_buffers(), strict=True):
        assert b.data.tolist() == expected.data.tolist(), name


@pytest.mark.parametrize("forget", [False, True])
def test_a_pass_counts_unless_it_is_forgotten(forget):
    layer = make(RouterConfig(TopK(1), gates=(), balancer=LossFreeBias(0.1)))
    layer(inputs(9, 5))
    layer.zero_grad()  # between forward and backward, as many training loops have it
    if forget:
        layer.router.forget_passes()
    layer.after_step()
    assert layer.router.balancer_state.data.any() != forget


def test_noise_reaches_both_levels_only_in_training():
    layer = two_levels(RouterConfig(TopK(1), gates=(), noise=GumbelNoise()))
    x = inputs(9, 5)
    with pytest.raises(ValueError, match=r"GumbelNoise\(\) needs rng while training"):
        layer(x)
    runs = [layer(x, np.random.default_rng(seed))[0].data for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.allclose(runs[0], runs[2])
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0].data, layer(x)[0].data)


def test_hash_routing_nests_and_uses_every_expert():
    layer = two_levels(RouterConfig(Hash(100), gates=(Gate(Renormalize),)), num_groups=2)
    ids = np.arange(100)
    used, x = np.zeros((2, 3), int), inputs(100, 5)
    y, routing = layer(x, token_ids=ids)
    for g, group in enumerate(layer.groups):
        mine = routing.token[routing.expert == g]
        _, inner = group(Tensor(x.data[mine]), token_ids=ids[mine])
        used[g] = inner.statistics.load
        for t, e in zip(inner.token, inner.expert, strict=True):
            np.testing.assert_allclose(y.data[mine[t]], expert(group.experts, e, x.data[mine[t]]), rtol=1e-9)
    assert used.sum() == 100
    assert used.min() >= 10


def test_active_parameters_of_two_levels():
    layer = two_levels(RouterConfig(TopK(1), gates=()))
    assert layer.num_parameters() == 3 * 5 + 3 * (2 * 5 + 2 * 90)
    assert layer.active_parameters() == 3 * 5 + 2 * 5 + 90


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        (recipes.hierarchical(groups=(4,)), {}, "groups must divide num_experts=6, got 4"),
        (recipes.mixtral(), {}, "groups must divide num_experts=6, got 0"),
        (recipes.soft_moe(), {}, "groups must divide num_experts=6, got 0"),
        (recipes.hierarchical(), {"dispatch": "magic"}, "dispatch must be one of .*, got 'magic'"),
        (recipes.hierarchical(), {"d_ff": 0}, "d_ff must be at least 1, got 0"),
        (Recipe(RouterConfig(TopK(3)), groups=(3,)), {}, "top_k must be between 1 and num_experts=2, got 3"),
    ],
)
def test_bad_settings_of_two_levels_are_named(recipe, settings, message):
    sizes = {"d_model": 5, "d_ff": 6, "num_experts": 6} | settings
    with pytest.raises(ValueError, match=message):
        HierarchicalMoE(**sizes, recipe=recipe, rng=np.random.default_rng(0))
