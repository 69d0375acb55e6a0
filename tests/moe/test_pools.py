"""Experts by modality: who may choose whom, and that text is routed as if there were nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import Batch, Recipe, RouterConfig, make_layer
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.dispatch import STRATEGIES
from moe_numpy.moe.losses import GlobalEntropy, LocalEntropy, SwitchBalance
from moe_numpy.moe.pools import pools_of
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.moe.selection import TopK

D, F, E = 6, 5, 8
MULTIMODAL = RECIPES["multimodal"]
X = np.random.default_rng(1).standard_normal((3, 7, D))
MODALITY = np.random.default_rng(2).integers(0, 2, (3, 7))


def make(dtype=np.float64, num_experts=E, **settings):
    recipe = MULTIMODAL(**MULTIMODAL.small | settings)
    return make_layer(recipe, D, F, num_experts, rng=np.random.default_rng(0), dtype=dtype)


def allowed(pools):
    """Which experts text and images may choose."""
    return {
        "separate": (range(4), range(4, 8)),
        "mixed": (range(5), range(3, 8)),
        "shared": (range(8), range(8)),
    }[pools]


@pytest.mark.parametrize("dispatch", STRATEGIES)
@pytest.mark.parametrize("pools", ["separate", "mixed", "shared"])
def test_each_modality_chooses_among_its_experts_only(pools, dispatch):
    layer = make(pools=pools)
    layer.dispatch = dispatch
    _, routing = layer(Tensor(X), modality=MODALITY)
    of_assignment = MODALITY.reshape(-1)[routing.token]
    for modality, experts in enumerate(allowed(pools)):
        assert set(routing.expert[of_assignment == modality].tolist()) <= set(experts)
    np.testing.assert_array_equal(np.bincount(routing.token), 2)
    key = routing.expert * X.size + routing.token
    assert (np.diff(key) > 0).all()  # by expert, then by token
    np.testing.assert_array_equal(routing.offsets, np.searchsorted(routing.expert, np.arange(E + 1)))


@pytest.mark.parametrize("pools", ["separate", "mixed"])
def test_both_modalities_together_are_each_by_itself(pools):
    layer = make(pools=pools)
    whole, routing = layer(Tensor(X), modality=MODALITY)
    answers = np.zeros_like(X).reshape(-1, D)
    loads = []
    for modality in (0, 1):
        mine = MODALITY.reshape(-1) == modality
        rows = X.reshape(-1, D)[mine]
        alone, of_one = layer(Tensor(rows), modality=np.full(len(rows), modality))
        answers[mine] = alone.data
        loads.append(of_one.statistics.load)
    np.testing.assert_allclose(whole.data.reshape(-1, D), answers, rtol=1e-12)
    np.testing.assert_array_equal(routing.statistics.load_by_modality(2), loads)
    np.testing.assert_array_equal(routing.statistics.load, np.sum(loads, axis=0))


@pytest.mark.parametrize("dispatch", STRATEGIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_text_is_that_of_the_layer_without_image_experts_bit_for_bit(dtype, dispatch):
    layer, text_only = make(dtype), make(dtype, num_experts=4, image_experts=0)
    layer.dispatch = text_only.dispatch = dispatch
    weights = {name: p.data for name, p in layer.named_parameters()}
    for name, p in text_only.named_parameters():
        p.data[...] = weights[name][: len(p.data)]
    (y, routing), (same, without) = (each(Tensor(X.astype(dtype))) for each in (layer, text_only))
    np.testing.assert_array_equal(y.data, same.data)
    np.testing.assert_array_equal(routing.losses["balance"].data, without.losses["balance"].data)
    np.testing.assert_array_equal(routing.statistics.load, [*without.statistics.load, 0, 0, 0, 0])
    assert routing.num_experts == E


@given(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.sampled_from(["separate", "mixed", "shared"]))
def test_any_mixture_of_modalities_routes_every_token(modality, pools):
    layer = make(pools=pools)
    x = Tensor(np.random.default_rng(3).standard_normal((len(modality), D)), requires_grad=True)
    y, routing = layer(x, modality=np.array(modality))
    (y.sum() + routing.auxiliary_loss).backward()
    assert np.isfinite(x.grad).all()
    np.testing.assert_array_equal(np.bincount(routing.token, minlength=len(modality)), 2)


def test_padding_between_tokens_changes_nothing():
    layer = make()
    mask = np.random.default_rng(4).random((3, 7)) > 0.3
    mask[0], mask[1, 0] = False, True
    y, routing = layer(Tensor(X), mask=mask, modality=MODALITY)
    alone, of_real = layer(Tensor(X[mask]), modality=MODALITY[mask])
    np.testing.assert_allclose(y.data[mask], alone.data, rtol=1e-12)
    assert not y.data[~mask].any()
    np.testing.assert_array_equal(routing.statistics.load_by_modality(2), of_real.statistics.load_by_modality(2))


def test_capacities_are_those_of_each_pool():
    recipe = MULTIMODAL(**MULTIMODAL.small)
    router = replace(recipe.router, capacity=Capacity(0.5))
    layer = make_layer(replace(recipe, router=router), D, F, E, rng=np.random.default_rng(0), dtype=np.float64)
    _, routing = layer(Tensor(X), modality=MODALITY)
    dropped = routing.statistics.dropped
    of_token = MODALITY.reshape(-1)
    for modality in (0, 1):
        rows = X.reshape(-1, D)[of_token == modality]
        _, alone = layer(Tensor(rows), modality=np.full(len(rows), modality))
        mine = of_token[dropped.token] == modality
        assert 0 < len(alone.statistics.dropped) == mine.sum()
        places = {int(n) for n in dropped.capacity[mine]}
        assert places == {int(n) for n in alone.statistics.dropped.capacity}


def test_a_batch_keeps_modalities_wherever_it_is_split():
    batch = Batch(3, lengths=(2, 3), shares=(2, 3), modality=np.array([[0, 1, 1, 0, 1]]), token_ids=np.arange(5))
    assert [part.modality.tolist() for _, part in batch.sequences()] == [[0, 1], [1, 0, 1]]
    assert [part.modality.tolist() for _, part in batch.of_ranks()] == [[0, 1], [1, 0, 1]]
    mine, images = batch.of_modality(1)
    assert mine.tolist() == images.token_ids.tolist() == [1, 2, 4]
    assert (images.lengths, images.sequence_length, images.modality) == ((1, 2), 2, None)
    mine, none = replace(batch, modality=np.zeros(5, int)).of_modality(1)
    assert (len(mine), none.lengths) == (0, None)
    with pytest.raises(ValueError, match="does not say which modality"):
        Batch(3).of_modality(0)


@pytest.mark.parametrize("loss", [LocalEntropy, GlobalEntropy])
def test_entropies_are_those_of_the_modality_alone(loss):
    settings = {"tau": 3.0} if loss is GlobalEntropy else {}
    router = RouterConfig(TopK(2), losses=(loss(**settings, modality=1),))
    layer = make_layer(Recipe(router), D, F, E, rng=np.random.default_rng(0), dtype=np.float64)
    images = X[MODALITY == 1]
    of_all = replace(router, losses=(loss(**settings),))
    alone = make_layer(Recipe(of_all), D, F, E, rng=np.random.default_rng(0), dtype=np.float64)
    name = router.losses[0].name
    expected = alone(Tensor(images))[1].losses[name].item()
    assert layer(Tensor(X), modality=MODALITY)[1].losses[name].item() == pytest.approx(expected, rel=1e-12)
    assert layer(Tensor(X))[1].losses[name].item() == 0  # text alone has no images


def test_a_recipe_without_image_experts_is_for_text_alone():
    assert MULTIMODAL(image_experts=0).pools == ()
    assert [type(loss) for loss in MULTIMODAL(image_experts=0).router.losses] == [SwitchBalance]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pools": "isolated"}, "pools must be separate, mixed or shared, got 'isolated'"),
        ({"pools": "mixed", "experts_of_both": 9}, "experts_of_both=9 must be less than twice image_experts=4"),
        ({"image_experts": 8}, "the text pool .* of num_experts=8 has no experts"),
        ({"image_experts": 7}, "top_k must be"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        make(**settings)


@pytest.mark.usefixtures("unchecked")
def test_pools_need_a_router_and_one_range_per_modality():
    with pytest.raises(ValueError, match="pools need a router"):
        Recipe(None, slots=2, pools=((0, 1), (1, None)))
    for pools in (((1, 4), (4, None)), ((0, 4),)):
        with pytest.raises(ValueError, match="pools must be one per modality"):
            pools_of(pools, E)
    with pytest.raises(ValueError, match=r"modality must have shape \(3, 7\)"):
        make()(Tensor(X), modality=MODALITY[0])
