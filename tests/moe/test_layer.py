import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import MoE, RouterConfig, recipes
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.gates import Raw
from moe_numpy.moe.selection import TopK

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


def by_hand(layer, x, routing):
    """y_t = Σ w f_e(x_t), one assignment at a time, in plain arrays."""
    y = np.zeros_like(x)
    experts = layer.experts
    for t, e, w in zip(routing.token, routing.expert, routing.weight.data, strict=True):
        gate, up = np.split(experts.gate_up.data[e] @ x[t], 2)
        y[t] += w * (experts.down.data[e] @ (gate / (1 + np.exp(-gate)) * up))
    return y


@pytest.mark.parametrize("dispatch", ["sorted", "loop"])
@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_the_layer_is_the_weighted_sum_of_its_experts(router, dispatch):
    layer = make(router, dispatch)
    x = inputs(9, 5)
    y, routing = layer(x, np.random.default_rng(0))
    np.testing.assert_allclose(y.data, by_hand(layer, x.data, routing), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("experts", ["swiglu", "relu", "gelu"])
@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_loop_and_sorted_agree_in_value_and_in_every_gradient(router, experts):
    results = []
    for dispatch in ("loop", "sorted"):
        layer, x = make(router, dispatch, experts), inputs(3, 4, 5)
        y, routing = layer(x, np.random.default_rng(0))
        y.backward(np.random.default_rng(2).standard_normal(y.shape), retain_graph=True)
        if routing.auxiliary_loss is not None:
            routing.auxiliary_loss.backward()
        results.append((y.data, x.grad, {name: p.grad for name, p in layer.named_parameters()}))
    (y, dx, grads), (y2, dx2, grads2) = results
    np.testing.assert_allclose(y, y2, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dx, dx2, rtol=1e-10, atol=1e-13)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, grads2[name], rtol=1e-10, atol=1e-13, err_msg=name)


def test_a_token_without_an_expert_contributes_zero():
    layer = make(recipes.switch(capacity_factor=0.3)).eval()
    y, routing = layer(inputs(12, 5))
    dropped = routing.statistics.dropped.token
    assert 0 < len(dropped) < 12
    np.testing.assert_array_equal(y.data[dropped], 0)
    assert (np.abs(y.data[routing.token]).max(axis=1) > 0).all()


def test_an_idle_expert_gets_a_zero_gradient():
    layer = make(RouterConfig(TopK(1), weights=Raw()))
    y, routing = layer(inputs(1, 5))
    y.backward(np.ones((1, 5)))
    (busy,) = routing.expert.tolist()
    for e in range(4):
        assert (np.abs(layer.experts.down.grad[e]).max() > 0) == (e == busy)


def test_without_capacity_a_token_does_not_depend_on_its_company():
    layer, x = make(recipes.mixtral()), inputs(6, 5)
    together, _ = layer(x)
    alone = np.concatenate([layer(Tensor(x.data[t : t + 1]))[0].data for t in range(6)])
    np.testing.assert_allclose(together.data, alone, rtol=1e-12)


def test_with_capacity_it_does():
    layer = make(RouterConfig(TopK(1), weights=Raw(), capacity=Capacity(1.0)))
    x = np.tile(np.random.default_rng(0).standard_normal(5), (8, 1))  # eight equal tokens want one expert
    y, _ = layer(Tensor(x))
    assert (np.abs(y.data).max(axis=1) > 0).tolist() == [True, True] + [False] * 6


def test_an_empty_batch_is_legal():
    layer, x = make(recipes.mixtral()), inputs(0, 5)
    y, routing = layer(x)
    assert y.shape == (0, 5)
    assert routing.num_tokens == 0


@pytest.mark.parametrize("experts", ["swiglu", "relu"])
def test_float32_in_float32_out(experts):
    layer = make(recipes.mixtral(), experts=experts, dtype=np.float32)
    x = inputs(7, 5, dtype=np.float32)
    y, _ = layer(x)
    y.backward(np.ones_like(y.data))
    assert {y.dtype, x.grad.dtype, *(p.grad.dtype for p in layer.parameters())} == {np.dtype(np.float32)}


def test_active_parameters_count_the_router_and_k_experts():
    layer = make(recipes.mixtral())
    assert layer.num_parameters() == 4 * 5 + 4 * 3 * 5 * 6
    assert layer.active_parameters() == 4 * 5 + 2 * 3 * 5 * 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_ff": 0}, "d_ff must be at least 1, got 0"),
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"num_experts": 1}, "top_k must be between 1 and num_experts=1, got 2"),
        ({"dispatch": "magic"}, "dispatch must be one of loop, sorted, got 'magic'"),
        ({"experts": "relu2"}, "experts must be one of swiglu, relu, gelu, got 'relu2'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    good = {"d_model": 5, "d_ff": 6, "num_experts": 4, "router": recipes.mixtral()}
    with pytest.raises(ValueError, match=message):
        MoE(**(good | settings), rng=np.random.default_rng(0))


def test_a_wrong_width_is_named():
    with pytest.raises(ValueError, match=r"x must end in d_model=5, got shape \(2, 4\)"):
        make(recipes.mixtral())(inputs(2, 4))
