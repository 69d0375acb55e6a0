"""A dense network as experts: the same function at first, for every kind of gate weights that allows it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import MoE, Recipe, RouterConfig, recipes
from moe_numpy.moe.balancers import LossFreeBias
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.gates import Gate, PNormalize, Renormalize, Scale
from moe_numpy.moe.selection import Hash, RandomSecond, TopK
from moe_numpy.moe.upcycling import plan, reinitialised
from moe_numpy.nn import FeedForward
from moe_numpy.ops import Sigmoid

ROUTERS = {
    "renormalised": lambda k: recipes.mixtral(top_k=k),
    "raw": lambda k: recipes.olmoe(top_k=k),
    "sigmoid": lambda k: Recipe(RouterConfig(TopK(k), scores=Sigmoid, gates=())),
    "sigmoid, renormalised, scaled, with a shared expert": lambda k: Recipe(
        RouterConfig(
            TopK(k), scores=Sigmoid, gates=(Gate(Renormalize, epsilon=1e-20), Scale(2.5)), balancer=LossFreeBias()
        ),
        shared_experts=1,
    ),
    "scaled, with a gated shared expert": lambda k: recipes.qwen2_moe(top_k=k, shared_experts=1),
    "p-norm": lambda k: Recipe(RouterConfig(TopK(k), gates=(Gate(PNormalize, p=2.0),))),
    "on the input": lambda k: recipes.llama4(top_k=k, shared_experts=0),
    "all experts": lambda k: recipes.jacobs_1991(),
    "quantiles": lambda k: recipes.quantile(top_k=k),
    "enough places": lambda k: recipes.mixtral(top_k=k, capacity_factor=100.0),
}


def layer_of(how, dense, d_model, d_ff, rng, reinitialise=0.0):
    layer = MoE(d_model, d_ff // how.granularity, how.num_experts, how.recipe, rng=rng)
    weights = (part.weight.data for part in (dense.gate, dense.up, dense.down))
    layer.load_state_dict(how.layer(*weights, rng, reinitialise))
    return layer.eval()


def relative_error(layer, dense, x):
    exact = dense(Tensor(x)).data
    return np.abs(layer(Tensor(x))[0].data - exact).max() / np.abs(exact).max()


@pytest.mark.parametrize("router", ROUTERS)
@settings(max_examples=10)
@given(data=st.data())
def test_the_function_stays(router, data):
    draw, seed = data.draw, data.draw(st.integers(0, 999))
    copies, parts = draw(st.integers(1, 6), "E"), draw(st.integers(1, 4), "G")
    k, d, width = draw(st.integers(1, copies), "k"), draw(st.integers(1, 9), "d"), draw(st.integers(1, 5), "f / G")
    rng = np.random.default_rng(seed)
    how = plan(ROUTERS[router](k * parts), copies, parts)
    assert how.num_experts == copies * parts
    dense = FeedForward(d, width * parts, rng=rng)
    x = rng.standard_normal((1, 20, d)).astype(np.float32)
    x /= np.sqrt((x * x).mean(axis=-1, keepdims=True))  # as norms leave it
    x[0, 0] = 0  # all its logits tie
    layer = layer_of(how, dense, d, width * parts, rng)
    assert relative_error(layer, dense, x) < 1e-5
    assert relative_error(layer.train(), dense, x) < 1e-5


@settings(max_examples=10)
@given(st.integers(2, 9), st.integers(1, 8), st.integers(1, 4), st.floats(1e-6, 0.5))
def test_raw_sums_are_too_large_by_less_than_the_spread_of_the_logits(copies, k, parts, noise):
    k = min(k, copies)
    how = plan(recipes.olmoe(top_k=k * parts), copies, parts, noise)
    logits = noise * np.random.default_rng(0).standard_normal((256, copies))  # those that plan() asks about
    spread = np.ptp(logits, axis=1).max()
    assert 0 <= how.drift <= np.expm1(spread) + 1e-12
    assert how.scale == pytest.approx(copies * parts / k)
    assert not how.any_router or k == copies


def test_groups_of_experts():
    """DeepSeek-V3's choice in groups: copies stay whole where a group holds whole copies, and only there."""
    rng = np.random.default_rng(0)
    dense, x = FeedForward(16, 8, rng=rng), rng.standard_normal((1, 99, 16)).astype(np.float32)
    how = plan(recipes.deepseek_v3(top_k=4, num_groups=4, top_groups=2), 8, 2)
    assert relative_error(layer_of(how, dense, 16, 8, rng), dense, x) < 1e-5
    with pytest.raises(ValueError, match="does not meet each of the 3 parts equally often"):
        plan(recipes.deepseek_v3(top_k=3, num_groups=6, top_groups=2), 4, 3)


def test_scales_by_hand():
    """E = 8, k = 2, G = 4: T = 8, and He et al. have E G² / T = 16."""
    raw, renormalised = plan(recipes.olmoe(top_k=8), 8, 4), plan(recipes.mixtral(top_k=8), 8, 4)
    assert (raw.scale, raw.scales) == (pytest.approx(16), (4, pytest.approx(4)))
    assert (renormalised.scale, renormalised.scales) == (pytest.approx(4), (2, pytest.approx(2)))
    assert (raw.any_router, renormalised.any_router) == (False, True)
    assert (raw.noise, renormalised.noise) == (1e-6, 1.0)
    on_input = plan(recipes.llama4(top_k=2), 8)  # σ(0) = 1/2, twice
    assert (on_input.input_scale, on_input.scale) == (2, 0.5)
    assert plan(recipes.deepseek_v2(top_k=2, num_groups=4, top_groups=2), 8).scale == pytest.approx(1 / (16 * 2 / 8))


def test_experts_are_parts_of_copies_side_by_side():
    gate, up, down = np.arange(8.0).reshape(4, 2), 10 + np.arange(8.0).reshape(4, 2), np.arange(8.0).reshape(2, 4)
    how = plan(recipes.mixtral(top_k=2), 3, 2)  # s = 2: all in down
    arrays = how.layer(gate, up, down, np.random.default_rng(0))
    assert arrays["experts.gate_up"].shape == (6, 4, 2)
    np.testing.assert_array_equal(arrays["experts.gate_up"][1], [*gate[2:], *up[2:]])
    np.testing.assert_array_equal(arrays["experts.down"][0], 2 * down[:, :2])
    np.testing.assert_array_equal(arrays["experts.down"][:2], arrays["experts.down"][4:])
    router = arrays["router.weight"]
    np.testing.assert_array_equal(router[::2], router[1::2])
    assert len(np.unique(router[:, 0])) == 3


def test_noise_spreads_the_first_tokens():
    """Without noise, all tokens go to the first k copies; with the least noise, to all."""
    rng = np.random.default_rng(0)
    dense, x = FeedForward(16, 8, rng=rng), rng.standard_normal((1, 500, 16)).astype(np.float32)

    def load(noise):
        layer = layer_of(plan(recipes.olmoe(top_k=2), 8, noise=noise), dense, 16, 8, np.random.default_rng(1))
        return layer(Tensor(x))[1].statistics.load

    np.testing.assert_array_equal(load(0.0), [500, 500, 0, 0, 0, 0, 0, 0])
    assert load(None).min() > 20


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (recipes.soft_moe(), "means of tokens"),
        (recipes.hierarchical(), "a tree of routers"),
        (recipes.longcat(top_k=2, zero_experts=4), "return their input"),
        (recipes.switch(capacity_factor=None), "relu networks"),
        (recipes.gpt_oss(top_k=2), "gpt_oss networks"),
        (recipes.mixture_of_depths(), "depends on the other tokens"),
        (recipes.remoe(), "depends on its logits"),
        (recipes.st_moe(), r"capacity_factor=1.25 may drop tokens.*from 8 on"),
        (Recipe(RouterConfig(TopK(2), capacity=Capacity(1.25))), r"capacity_factor=1.25 may drop tokens.*from 4 on"),
        (Recipe(RouterConfig(TopK(2), capacity=Capacity(4, eval_factor=1))), "capacity_factor=1 may drop"),
        (recipes.mixtral(top_k=9), "top_k must be between 1 and num_experts=8, got 9"),
        (Recipe(RouterConfig(TopK(2), scores=None, gates=())), "add up to 0"),
    ],
)
def test_what_cannot_be_exact_is_refused(recipe, why):
    with pytest.raises(ValueError, match=why):
        plan(recipe, 8)


@pytest.mark.parametrize("selection", [TopK(3), TopK(1), RandomSecond(), Hash(16)])
def test_parts_that_are_not_met_equally_often_are_refused(selection):
    with pytest.raises(ValueError, match="does not meet each of the 4 parts equally often"):
        plan(Recipe(RouterConfig(selection)), 8, 4)


def test_settings_out_of_range():
    for arguments, what in [((0, 1), "num_experts"), ((2, 0), "granularity"), ((2, 1, -1.0), "noise")]:
        with pytest.raises(ValueError, match=what):
            plan(recipes.mixtral(), *arguments)
    how, rng = plan(recipes.mixtral(top_k=3), 4, 3), np.random.default_rng(0)
    with pytest.raises(ValueError, match="granularity must divide d_ff=8"):
        how.experts(*(rng.standard_normal(shape) for shape in [(8, 2), (8, 2), (2, 8)]))


def test_units_drawn_anew():
    rng = np.random.default_rng(0)
    gate_up, down = rng.normal(3, 2, (4, 200, 50)), rng.normal(-1, 0.5, (4, 50, 100))
    found = reinitialised(gate_up, down, 0.25, rng)
    same = (found["gate_up"] == gate_up).all(axis=2)  # [E, 2 f]
    assert (same.sum(axis=1) == 150).all()
    np.testing.assert_array_equal(same[:, :100], same[:, 100:])  # a unit is a row of A, a row of U and a column of D
    np.testing.assert_array_equal(same[:, :100], (found["down"] == down).all(axis=1))
    assert not (same[0] == same[1]).all()
    new = found["gate_up"][~same]
    assert (abs(new.mean() - 3) < 0.1, abs(new.std() - 2) < 0.1) == (True, True)
    with pytest.raises(ValueError, match="between 0 and 1"):
        reinitialised(gate_up, down, 1.5, rng)
