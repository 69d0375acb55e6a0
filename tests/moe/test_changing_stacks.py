"""Experts that are taken, permuted and merged, and rows of a router for new ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import MoE, RouterConfig, make_layer
from moe_numpy.moe.expert_stacks import expert_tensors, hidden_units, real_experts, require_replaceable, take_experts
from moe_numpy.moe.experts import KINDS
from moe_numpy.moe.merging import (
    answers_of,
    best_permutation,
    merge_into,
    output_similarity,
    permute_units,
    weight_similarity,
)
from moe_numpy.moe.new_rows import _offset, new_rows
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.moe.selection import TopK

D, F, E = 6, 5, 4


def layer_of(kind="swiglu", num_experts=E, seed=0, **recipe):
    layer = MoE(D, F, num_experts, RouterConfig(TopK(2), **recipe), experts=kind, rng=np.random.default_rng(seed),
                dtype=np.float64)  # fmt: skip
    for i, p in enumerate(layer.parameters()):  # biases are zero at first
        p.data += 0.3 * np.random.default_rng(i).standard_normal(p.shape)
    return layer.eval()


def x_of(rows=7, seed=5):
    return np.random.default_rng(seed).standard_normal((rows, D))


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_units_in_another_order_compute_the_same(kind):
    experts = real_experts(layer_of(kind))
    before = [experts.one(e, Tensor(x_of())).data for e in range(E)]
    assert sum(units[0].size for units in hidden_units(experts)) >= 2 * D * F
    permute_units(experts, 2, np.array([3, 0, 4, 1, 2]))
    for e, y in enumerate(before):
        np.testing.assert_allclose(experts.one(e, Tensor(x_of())).data, y, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@given(st.permutations(range(F)))
def test_the_best_permutation_undoes_any(kind, order):
    layer = layer_of(kind)
    experts = real_experts(layer)
    for p in experts.parameters():
        p.data[1] = p.data[0]
    permute_units(experts, 1, np.array(order))
    assert np.array(order)[best_permutation(experts, 0, 1)].tolist() == list(range(F))


def test_merging_a_permuted_copy_changes_nothing_only_if_units_are_aligned():
    for align in (True, False):
        layer = layer_of()
        for p in expert_tensors(layer):
            p.data[3] = p.data[0]
        permute_units(layer.experts, 3, np.array([1, 2, 3, 4, 0]))
        before, row = layer.experts.one(0, Tensor(x_of())).data, layer.router.weight.data[0].copy()
        merge_into(layer, 0, 3, 0.25, align=align)
        assert np.allclose(layer.experts.one(0, Tensor(x_of())).data, before) == align
        assert np.array_equal(layer.router.weight.data[0], row)


def test_the_mean_of_two_experts_by_hand():
    layer = layer_of("relu")
    a, b = layer.experts.second_bias.data[[1, 2]].copy()
    merge_into(layer, 1, 2, 0.75, align=False)
    np.testing.assert_allclose(layer.experts.second_bias.data[1], 0.75 * a + 0.25 * b, rtol=1e-15)
    np.testing.assert_array_equal(layer.experts.second_bias.data[2], b)


@pytest.mark.parametrize(("b", "share", "message"), [(0, 0.5, "with itself"), (1, 1.5, "between 0 and 1")])
def test_wrong_merges(b, share, message):
    with pytest.raises(ValueError, match=message):
        merge_into(layer_of(), 0, b, share)


def test_similarities_by_hand():
    layer = layer_of()
    layer.experts.gate_up.data[1], layer.experts.down.data[1] = (
        layer.experts.gate_up.data[0],
        -layer.experts.down.data[0],
    )
    outputs, weights = output_similarity(answers_of(layer, x_of())), weight_similarity(layer)
    np.testing.assert_allclose(np.diag(outputs), 1, rtol=1e-12)
    assert outputs[0, 1] == pytest.approx(-1)
    up, down = (np.sum(p.data[0] ** 2) for p in (layer.experts.gate_up, layer.experts.down))
    assert weights[0, 1] == pytest.approx((up - down) / (up + down))
    y = [layer.experts.one(e, Tensor(x_of())).data.reshape(-1) for e in (0, 2)]
    assert outputs[0, 2] == pytest.approx(y[0] @ y[1] / np.linalg.norm(y[0]) / np.linalg.norm(y[1]))


def test_dropping_an_expert_that_no_token_chose_changes_nothing():
    layer = layer_of()
    layer.router.weight.data[1] = 0
    x = Tensor(x_of() + 3)
    layer.router.weight.data[1] = -10
    y, routing = layer(x.reshape(1, 7, D))
    assert 1 not in routing.expert
    smaller = layer_of(num_experts=3)
    take_experts(smaller, layer, [0, 2, 3])
    np.testing.assert_allclose(smaller(x.reshape(1, 7, D))[0].data, y.data, rtol=1e-12)


def test_zero_computation_experts_stay_behind_the_real_ones():
    recipe = RECIPES["longcat"](**RECIPES["longcat"].small)
    source, target = (make_layer(recipe, D, F, n, rng=np.random.default_rng(0), dtype=np.float64) for n in (4, 3))
    take_experts(target, source, [3, 0, 2])
    rows = source.router.weight.data
    np.testing.assert_array_equal(target.router.weight.data, np.concatenate([rows[[3, 0, 2]], rows[4:]]))
    np.testing.assert_array_equal(real_experts(target).down.data, real_experts(source).down.data[[3, 0, 2]])


NOT_ONE_BY_ONE = {
    "base", "deepseek_v2", "deepseek_v3", "expert_choice", "hash", "hierarchical", "mixture_of_depths", "multimodal",
    "sinkhorn", "soft_moe",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - NOT_ONE_BY_ONE))
def test_experts_of_other_recipes_are_taken_apart(name):
    recipe = RECIPES[name](**RECIPES[name].small)
    source, target = (make_layer(recipe, D, F, 8, rng=np.random.default_rng(seed), dtype=np.float64) for seed in (0, 1))
    require_replaceable(source)
    order = [3, 1, 0, 2, 7, 6, 5, 4]
    take_experts(target, source, order)
    for tensor, of_source in zip(expert_tensors(target), expert_tensors(source), strict=True):
        np.testing.assert_array_equal(tensor.data[:8], of_source.data[order])


@pytest.mark.parametrize("name", sorted(NOT_ONE_BY_ONE))
def test_routers_whose_other_choices_would_change_are_refused(name):
    published = RECIPES[name]
    layer = make_layer(published(**published.small), D, F, 8, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="one by one"):
        require_replaceable(layer)


def domains(rng, shift=1.0):
    centre = 8 * rng.choice([-1, 1], D)
    old, new = rng.standard_normal((400, D)) + centre, rng.standard_normal((300, D)) + centre
    new[:, 0] += shift
    return old, new


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 0.1]), st.floats(0, 4))
def test_a_new_row_is_chosen_by_at_most_that_share_of_old_tokens(seed, unused, shift):
    rng = np.random.default_rng(seed)
    old, new = domains(rng, shift)
    weight = rng.standard_normal((E, D))
    bars = [np.sort(x @ weight.T, axis=1)[:, -2] for x in (old, new)]
    rows = new_rows(3, old, new, *bars, unused=unused, rng=rng)
    assert ((rows @ old.T > bars[0] + 1e-6).mean(axis=1) <= unused).all()
    assert len({row.tobytes() for row in rows}) == 3


def test_the_offset_by_hand():
    above, one = np.array([3.0, 2.0, 1.0, -1.0]), np.array([1.0, 1.0, 1.0, 1.0])
    assert [_offset(above, one, unused) for unused in (0, 0.25, 0.5, 0.75)] == [3, 2, 1, 0]
    assert _offset(above, np.array([1.0, 1.0, -1.0, 1.0]), 0) == 3  # the third never leaves
    assert _offset(above, np.array([1.0, 1.0, 1.0, -1.0]), 0.5) == 1  # the fourth comes after 1
    assert _offset(above, np.array([1.0, 1.0, 0.0, 1.0]), 0.25) == 3  # and 0 moves nothing


def test_a_new_row_is_chosen_by_a_domain_that_lies_apart():
    old, new = domains(np.random.default_rng(0), shift=8.0)
    weight = 0.1 * np.random.default_rng(1).standard_normal((E, D))
    bars = [np.sort(x @ weight.T, axis=1)[:, -2] for x in (old, new)]
    (row,) = new_rows(1, old, new, *bars, rng=np.random.default_rng(2))
    assert (new @ row > bars[1]).mean() > 0.9
    assert (old @ row > bars[0] + 1e-6).mean() <= 0.01


def test_a_new_row_needs_text_and_a_share():
    old, new = domains(np.random.default_rng(0))
    with pytest.raises(ValueError, match="tokens of old and of new text, got 400 and 0"):
        new_rows(1, old, new[:0], np.zeros(400), np.zeros(0), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="unused must be between 0 and 1, got 2"):
        new_rows(1, old, new, np.zeros(400), np.zeros(300), unused=2, rng=np.random.default_rng(0))
