"""Padding changes nothing: with a mask a layer gives what it gives for the real tokens alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from unchecked_shapes import unchecked_shapes

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import Batch, Recipe, Router, RouterConfig, make_layer
from moe_numpy.moe.balancers import LossFreeBias, QuantileBalancing
from moe_numpy.moe.capacity import DROP, Capacity
from moe_numpy.moe.dispatch import STRATEGIES
from moe_numpy.moe.losses import Importance, Load, LocalEntropy, SwitchBalance, ZLoss
from moe_numpy.moe.noise import GumbelNoise, Jitter, NormalNoise
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.moe.selection import ExpertChoice, RandomSecond, TopK
from moe_numpy.ops import Sigmoid

pytestmark = pytest.mark.no_cover

D, E = 4, 8
OF_SEQUENCES = {"expert_choice", "mixture_of_depths", "deepseek_v2", "deepseek_v3", "deepseek_v4", "soft_moe"}
RECIPE = {name: published(**published.small) for name, published in RECIPES.items()}

# By name: a recipe whose rules look at the whole batch, and one whose rules look at each sequence by itself.
BATCH_RULES = {name: recipe for name, recipe in RECIPE.items() if name not in OF_SEQUENCES}
BATCH_RULES |= {
    f"capacity, {drop}": Recipe(RouterConfig(TopK(2), capacity=Capacity(0.7, drop=drop), gate_after_dropping=True))
    for drop in DROP
}
BATCH_RULES |= {
    "capacity of groups": Recipe(RouterConfig(TopK(2), capacity=Capacity(0.8, scope=3))),
    "losses": Recipe(
        RouterConfig(
            TopK(2),
            noise=NormalNoise(),
            losses=(
                SwitchBalance(count="first", at_balance="k"),
                SwitchBalance(scope="global", name="global"),
                ZLoss(),
                Importance(),
                Load(),
                LocalEntropy(),
            ),
        )
    ),
    "noise": Recipe(RouterConfig(RandomSecond(), noise=GumbelNoise(), losses=(ZLoss(),))),
    "experts choose from the batch": Recipe(RouterConfig(ExpertChoice(1.5, "batch"), gates=())),
    "quantile": Recipe(RouterConfig(TopK(2), noise=Jitter(0.3), balancer=QuantileBalancing(2))),
    "two levels": Recipe(
        RouterConfig(TopK(1), capacity=Capacity(0.9), losses=(ZLoss(),), balancer=LossFreeBias(0.1)), groups=(2,)
    ),
}
SEQUENCE_RULES = {name: RECIPE[name] for name in RECIPE if name in OF_SEQUENCES}
SEQUENCE_RULES |= {
    f"capacity per sequence, {drop}": Recipe(
        RouterConfig(TopK(2), capacity=Capacity(0.7, drop=drop, scope="sequence"), balancer=LossFreeBias(0.1))
    )
    for drop in DROP
}
SEQUENCE_RULES |= {
    f"balance per sequence, {count}": Recipe(
        RouterConfig(TopK(2), losses=(SwitchBalance(0.5, "sequence", count, at_balance, scoring),))
    )
    for count, at_balance, scoring in [("all", "k", None), ("first", 1, None), ("unbiased", 1, Sigmoid)]
}
EXPERTS = {"mixture_of_depths": 2}

masks = st.tuples(st.integers(1, 4), st.integers(1, 6)).flatmap(lambda shape: arrays(bool, shape))


def make(recipe, dispatch="sorted", num_experts=E):
    layer = make_layer(recipe, D, 3, num_experts, dispatch=dispatch, rng=np.random.default_rng(0), dtype=np.float64)
    for i, parameter in enumerate(layer.parameters()):  # biases and noise weights are zero at first
        parameter.data += 0.3 * np.random.default_rng(i).standard_normal(parameter.shape)
    return layer


def results(layer, passes):
    """What comes out of some passes ``(x, cotangent, ids, mask)`` and one step, and every gradient."""
    rng = np.random.default_rng(5)
    total, shown = Tensor(np.zeros(())), {"y": [], "dx": [], "token": [], "lost": [], "load": 0, "losses": {}}
    inputs, first = [], 0
    for x, cotangent, ids, mask in passes:
        inputs.append(Tensor(x, requires_grad=True))
        y, routing = layer(inputs[-1], rng, ids, mask)
        total = total + (y * Tensor(cotangent)).sum()
        shown["y"].append(y.data.reshape(-1, D))
        if routing is None:
            continue
        if routing.auxiliary_loss is not None:
            total = total + routing.auxiliary_loss * (1 / len(passes))
        for name, loss in routing.losses.items():
            shown["losses"][name] = shown["losses"].get(name, 0) + loss.data / len(passes)
        statistics = routing.statistics
        shown["load"] = shown["load"] + statistics.load
        shown["token"].append(np.stack([routing.token + first, routing.expert]))
        shown["lost"].append(np.stack([statistics.dropped.token + first, statistics.dropped.expert]))
        shown["importance"] = statistics.importance
        first += x[..., 0].size
    total.backward()
    shown["dx"] = [x.grad.reshape(-1, D) for x in inputs]
    shown["gradients"] = {name: p.grad for name, p in layer.named_parameters()}
    layer.after_step()
    shown["state"] = [b.data for _, b in layer.named_buffers()]
    return shown


def compare(name, recipe, dispatch, mask, training, of_sequences):
    rng = np.random.default_rng(mask.size)
    x, cotangent = rng.standard_normal((2, *mask.shape, D))
    ids = rng.integers(0, 256, mask.shape)
    num_experts = EXPERTS.get(name, E)
    alone = (x[mask], cotangent[mask], ids[mask], None)
    if of_sequences:
        passes = [(x[b : b + 1, m], cotangent[b : b + 1, m], ids[b : b + 1, m], None) for b, m in enumerate(mask)]
        passes = [p for p in passes if p[2].size]
    else:
        passes = [alone]
    junk = np.where(mask[..., None], x, np.nan)
    junk_ids = np.where(mask, ids, -7)
    layers = [make(recipe, dispatch, num_experts).train(training) for _ in range(2)]
    found = results(layers[0], [(junk, np.where(mask[..., None], cotangent, 3.0), junk_ids, mask)])
    real = np.flatnonzero(mask)
    for key in ("y", "dx"):
        (value,) = found[key]
        np.testing.assert_array_equal(value[~mask.reshape(-1)], 0, err_msg=key)
        found[key] = [value[real]]
    if not passes:  # nothing but padding
        assert all(g is None or (g == 0).all() for g in found["gradients"].values())
        np.testing.assert_array_equal(found["state"], [b.data for _, b in layers[1].named_buffers()])
        assert np.sum(found["load"]) == 0
        return
    expected = results(layers[1], passes)
    for key in ("y", "dx"):
        np.testing.assert_allclose(found[key][0], np.concatenate(expected[key]), rtol=1e-9, atol=1e-12, err_msg=key)
    for key in ("token", "lost"):
        if expected[key]:
            pairs = np.concatenate(expected[key], axis=1)
            pairs = np.stack([real[pairs[0]], pairs[1]])
            assert sorted(found[key][0].T.tolist()) == sorted(pairs.T.tolist()), key
    np.testing.assert_array_equal(found["load"], expected["load"])
    if not of_sequences:
        np.testing.assert_allclose(found["importance"], expected["importance"], rtol=1e-12)
    for key in ("losses", "gradients"):
        assert found[key].keys() == expected[key].keys()
        for part, value in expected[key].items():
            if value is None:  # the weight of noise, in evaluation
                assert found[key][part] is None
                continue
            np.testing.assert_allclose(found[key][part], value, rtol=1e-8, atol=1e-11, err_msg=f"{key} {part}")
    for a, b in zip(found["state"], expected["state"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.parametrize("name", BATCH_RULES)
@settings(max_examples=12, deadline=None)
@given(masks, st.sampled_from(list(STRATEGIES)), st.booleans())
def test_padding_changes_nothing(name, mask, dispatch, training):
    with unchecked_shapes():
        compare(name, BATCH_RULES[name], dispatch, mask, training, of_sequences=False)


@pytest.mark.parametrize("name", SEQUENCE_RULES)
@settings(max_examples=12, deadline=None)
@given(masks, st.sampled_from(list(STRATEGIES)), st.booleans())
def test_padding_changes_nothing_where_rules_look_at_each_sequence(name, mask, dispatch, training):
    with unchecked_shapes():
        compare(name, SEQUENCE_RULES[name], dispatch, mask, training, of_sequences=True)


@pytest.mark.parametrize("name", RECIPE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mask_of_true_is_no_mask_bit_for_bit(name, dtype):
    x = np.random.default_rng(1).standard_normal((3, 5, D)).astype(dtype)
    ids = np.random.default_rng(2).integers(0, 256, (3, 5))
    shown = []
    for mask in (None, np.ones((3, 5), bool)):
        recipe = RECIPE[name]
        layer = make_layer(recipe, D, 3, EXPERTS.get(name, E), rng=np.random.default_rng(0), dtype=dtype)
        shown.append(results(layer, [(x, 2 * x, ids, mask)]))
    plain, masked = shown
    for key in ("y", "dx", "token", "lost", "state"):
        np.testing.assert_array_equal(plain[key], masked[key], err_msg=key)
    for key in ("losses", "gradients"):
        for part in plain[key]:
            np.testing.assert_array_equal(plain[key][part], masked[key][part], err_msg=part)


def test_capacity_counts_real_tokens():
    """10 of 16 tokens are real: 2 experts have 5 places, and no token is dropped for padding before it."""
    layer = make(Recipe(RouterConfig(TopK(1), capacity=Capacity(1.0))), num_experts=2)
    mask = np.arange(16).reshape(2, 8) % 8 < 5
    _, routing = layer(Tensor(np.ones((2, 8, D))), mask=mask)
    assert routing.statistics.load.sum() == 10
    dropped = routing.statistics.dropped
    assert dropped.capacity == 5
    assert dropped.token.tolist() == [8, 9, 10, 11, 12]  # as numbered in x
    assert routing.token.tolist() == [0, 1, 2, 3, 4]
    assert routing.num_tokens == 16
    assert len(routing.statistics.scores) == 10


def test_capacity_of_each_sequence():
    """Sequences of 4 and 2 real tokens that want one of two experts have 2 places and 1."""
    layer = make(Recipe(RouterConfig(TopK(1), capacity=Capacity(1.0, scope="sequence"))), num_experts=2)
    mask = np.array([[True, True, True, True], [False, True, False, True]])
    _, routing = layer(Tensor(np.ones((2, 4, D))), mask=mask)
    dropped = routing.statistics.dropped
    assert routing.token.tolist() == [0, 1, 5]
    assert dropped.token.tolist() == [2, 3, 7]
    assert dropped.capacity.tolist() == [2, 2, 1]
    assert dropped.reason(2) == f"token 7: expert {dropped.expert[2]} had filled its 1 places"


def test_a_balance_loss_per_sequence_is_a_mean_over_sequences_with_tokens():
    """Logits (0, 0) and all tokens to expert 0: each sequence has E f P = 2 · 1 · ½ = 1."""
    layer = make(Recipe(RouterConfig(TopK(1), losses=(SwitchBalance(scope="sequence"),))), num_experts=2)
    mask = np.array([[True, True, True], [True, False, False], [False, False, False]])
    _, routing = layer(Tensor(np.zeros((3, 3, D))), mask=mask)
    assert routing.losses["balance"].data == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["deepseek_v3", "remoe", "quantile", "longcat"])
def test_a_pass_without_tokens_moves_no_balancer(name):
    layer = make(RECIPE[name]).train()
    before = layer.router.balancer_state.data.copy()
    layer(Tensor(np.ones((2, 3, D))), mask=np.zeros((2, 3), bool))
    layer.after_step()
    np.testing.assert_array_equal(layer.router.balancer_state.data, before)


def test_sequences_of_different_lengths_have_no_common_capacity():
    with pytest.raises(ValueError, match="sequences of 1 to 3 tokens have no common capacity"):
        Capacity(scope="sequence").tokens_in_scope(4, Batch(3, lengths=(1, 3)))


def test_a_router_takes_sequences_of_different_lengths():
    router = Router(RouterConfig(ExpertChoice(1.0), gates=()), D, 2, rng=np.random.default_rng(0), dtype=np.float64)
    x = np.random.default_rng(1).standard_normal((5, D))
    both = router(Tensor(x), Batch(4, lengths=(1, 4)))
    alone = [router(Tensor(part), Batch(len(part))) for part in (x[:1], x[1:])]
    np.testing.assert_array_equal(both.statistics.load, sum(r.statistics.load for r in alone))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["mixtral", "hierarchical", "soft_moe"])
def test_masks_that_do_not_fit(name):
    layer, x = make(RECIPE[name]), Tensor(np.ones((2, 3, D)))
    wanted = r"mask must be a boolean array of shape \(2, 3\), True for real tokens; got "
    with pytest.raises(ValueError, match=wanted + r"bool of shape \(3, 2\)"):
        layer(x, mask=np.ones((3, 2), bool))
    with pytest.raises(ValueError, match=wanted + r"bool of shape \(2, 3, 4\)"):
        layer(x, mask=np.ones((2, 3, 4), bool))
    with pytest.raises(TypeError, match=wanted + r"int64 of shape \(2, 3\)"):
        layer(x, mask=np.ones((2, 3), np.int64))
    with pytest.raises(TypeError, match=wanted + r"float64 of shape \(2, 3\)"):
        layer(x, mask=np.ones((2, 3)))
    listed, _ = layer(x, mask=[[True, False, True], [True, True, False]])
    assert (listed.data == 0).all(axis=2).tolist() == [[False, True, False], [False, False, True]]


@pytest.mark.parametrize("mask", [np.array(True), np.array(False)])
def test_one_token_without_axes(mask):
    layer, x = make(RECIPE["mixtral"]), np.ones(D)
    expected = layer(Tensor(x))[0].data
    np.testing.assert_array_equal(layer(Tensor(x), mask=mask)[0].data, expected if mask else 0 * expected)
