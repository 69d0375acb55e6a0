"""A layer on several ranks computes what it computes on one: answers, gradients, losses, statistics, balancing."""

from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import Recipe, make_layer
from moe_numpy.moe.capacity import DROP, Capacity
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.moe.router import RouterConfig
from moe_numpy.moe.routing import parts_of
from moe_numpy.moe.selection import TopK
from moe_numpy.moe.sharding import share_experts
from moe_numpy.parallel import Alone
from moe_numpy.parallel.collectives import add_up, shares
from moe_numpy.parallel.parts import run_parts
from moe_numpy.parallel.replicas import add_up_replicas

D, F, E = 4, 3, 8
BATCH, LENGTH = 5, 4  # 5 sequences do not divide
RNG = np.random.default_rng(1)
X, COTANGENT = RNG.standard_normal((2, BATCH, LENGTH, D))
IDS = RNG.integers(0, 256, (BATCH, LENGTH))
MASK = RNG.random((BATCH, LENGTH)) > 0.2
MODALITY = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]])  # some ranks have no image


def make(recipe):
    layer = make_layer(recipe, D, F, E, rng=np.random.default_rng(0), dtype=np.float64)
    for i, parameter in enumerate(layer.parameters()):  # biases and noise weights are zero at first
        parameter.data += 0.1 * np.random.default_rng(i).standard_normal(parameter.shape)
    return layer


def published(name):
    return RECIPES[name](**dict(RECIPES[name].small))


def step(layer, own, mask=None, ranks=1, modality=None):
    """Two passes and what follows an optimizer step, for the sequences ``own``; each rank adds its part of the loss."""
    layer.zero_grad()
    for seed in (2, 3):
        x = Tensor(X[own], requires_grad=True)
        of_tokens = () if modality is None else (modality[own],)
        y, routing = layer(x, np.random.default_rng(seed), IDS[own], None if mask is None else mask[own], *of_tokens)
        objective = (y * COTANGENT[own]).sum()
        if routing is not None and routing.auxiliary_loss is not None:
            objective = objective + routing.auxiliary_loss / ranks
        objective.backward()
    layer.after_step()
    return {"y": y.data, "dx": x.grad}, routing


def require_equal_to_one(make_recipe, num_ranks, mask=None, modality=None, **sharing):
    one = make(make_recipe())
    expected, of_one = step(one, slice(0, BATCH), mask, modality=modality)
    gradients = {name: np.zeros_like(p.data) if p.grad is None else p.grad for name, p in one.named_parameters()}

    def work(communicator):
        layer = make(make_recipe())
        holdings = share_experts(layer, communicator, **sharing)
        own = shares(BATCH, communicator.size)[communicator.rank]
        found, routing = step(layer, own, mask, communicator.size, modality)
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name][own], rtol=1e-9, atol=1e-12, err_msg=name)
        for name, p in layer.named_parameters():
            gradient = np.zeros_like(p.data) if p.grad is None else p.grad
            wanted = gradients[name]
            if name in holdings:
                gradient = add_up_replicas(holdings[name], gradient, "gradients")
                wanted = wanted[list(holdings[name].held)]
            else:
                (gradient,) = add_up(communicator, [gradient], "gradients")
            np.testing.assert_allclose(gradient, wanted, rtol=1e-9, atol=1e-12, err_msg=name)
        for (name, buffer), (_, same) in zip(layer.named_buffers(), one.named_buffers(), strict=True):
            np.testing.assert_allclose(buffer.data, same.data, rtol=1e-12, err_msg=name)
        if routing is not None:
            (load,) = add_up(communicator, [routing.statistics.load], "load")
            np.testing.assert_array_equal(load, of_one.statistics.load)
            (dropped,) = add_up(communicator, [np.array([len(routing.statistics.dropped)])], "dropped")
            assert dropped == len(of_one.statistics.dropped)
            for name, loss in of_one.losses.items():
                np.testing.assert_allclose(routing.losses[name].data, loss.data, rtol=1e-12, err_msg=name)

    run_parts(Alone(), num_ranks, work)


@pytest.mark.no_cover
@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("name", RECIPES)
def test_every_published_router(name, num_ranks):
    require_equal_to_one(lambda: published(name), num_ranks)


@pytest.mark.parametrize("name", ["switch", "shazeer_2017", "expert_choice", "soft_moe", "longcat", "hierarchical"])
def test_padding_and_more_ranks_than_some_have_tokens(name):
    mask = MASK.copy()
    mask[0] = False
    require_equal_to_one(lambda: published(name), 5, mask)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "longcat", "soft_moe"])
def test_experts_that_several_ranks_hold(name):
    require_equal_to_one(lambda: published(name), 4, experts_across=2)


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
@pytest.mark.parametrize("pools", ["separate", "mixed", "shared"])
def test_text_and_images(pools, mask):
    multimodal = RECIPES["multimodal"]
    require_equal_to_one(lambda: multimodal(**multimodal.small | {"pools": pools}), 4, mask, MODALITY)


@pytest.mark.parametrize("drop", DROP)
@pytest.mark.parametrize("scope", ["batch", "sequence", 8])
def test_every_capacity(drop, scope):
    router = RouterConfig(TopK(2), capacity=Capacity(0.6, drop=drop, scope=scope))
    require_equal_to_one(lambda: Recipe(router), 3)


def test_capacity_of_each_rank_is_that_of_its_tokens_alone():
    router = RouterConfig(TopK(2), capacity=Capacity(0.6))

    def work(communicator):
        own = shares(BATCH, communicator.size)[communicator.rank]
        layer = make(Recipe(router))
        share_experts(layer, communicator, capacity_scope="rank")
        alone, routing_alone = step(make(Recipe(router)), own)
        found, routing = step(layer, own, ranks=communicator.size)
        np.testing.assert_allclose(found["y"], alone["y"], rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(routing.statistics.dropped.token, routing_alone.statistics.dropped.token)
        return routing.statistics.dropped_fraction

    assert run_parts(Alone(), 3, work) > 0


@pytest.mark.parametrize("name", ["switch", "gshard", "shazeer_2017", "st_moe", "dbrx"])
def test_local_balance_losses_are_the_mean_of_the_ranks(name):
    sizes = [each.stop - each.start for each in shares(BATCH, 3)]
    values = []
    for own in parts_of(sizes):
        layer = make(published(name))
        layer.router.config = without_noise(layer.router.config)
        values.append(layer(Tensor(X[own]), np.random.default_rng(2), IDS[own])[1].losses)

    def work(communicator):
        layer = make(published(name))
        layer.router.config = without_noise(layer.router.config)
        share_experts(layer, communicator, balance_scope="local")
        own = shares(BATCH, 3)[communicator.rank]
        losses = layer(Tensor(X[own]), np.random.default_rng(2), IDS[own])[1].losses
        for kind, loss in losses.items():
            np.testing.assert_allclose(loss.data, np.mean([each[kind].data for each in values]), rtol=1e-12)
        return losses

    assert run_parts(Alone(), 3, work)


def without_noise(config):
    return replace(config, noise=None, losses=tuple(loss for loss in config.losses if loss.name != "load"))


@pytest.mark.parametrize("settings", [{"capacity_scope": "batch"}, {"balance_scope": "rank"}, {"experts_across": 3}])
def test_a_setting_out_of_range_is_named(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must"):
        run_parts(Alone(), 2, lambda communicator: share_experts(make(published("mixtral")), communicator, **settings))
