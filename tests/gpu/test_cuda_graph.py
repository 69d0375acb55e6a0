"""Training steps replayed from a recording are those that run launch by launch, bit for bit."""

import numpy as np
import pytest

from moe_numpy.autodiff.arrays import to_host
from moe_numpy.models import ModelConfig
from moe_numpy.moe import recipes
from moe_numpy.training import Corpus, Domain, Trainer, TrainingConfig

pytestmark = pytest.mark.gpu

VALUES = "what follows depends on values that have to come to the host"
NOT_RECORDED = {
    "base": VALUES,
    "hierarchical": VALUES,
    "remoe": VALUES,
    "sinkhorn": "calling cuBLAS API during stream capture is currently unsupported",
}


def trainer(recipe="mixtral", dtype="bfloat16", **settings):
    text = np.random.default_rng(0).integers(32, 120, 20_000).astype(np.uint8)
    own = {"image_experts": 0} if recipe == "multimodal" else {}  # the model for text alone
    model = ModelConfig(
        d_model=64, num_layers=2, d_ff=64, context=64, num_experts=8, recipe=recipe, recipe_settings=own
    )
    config = TrainingConfig(steps=10, warmup=2, batch_size=8, device="cuda", dtype=dtype, **settings)
    return Trainer(model, config, Corpus([Domain("noise", text[:18_000], text[18_000:])]))


def state(t):
    return {**t.model.state_dict(), **t.optimizer.state_dict()}


def assert_same(one, other):
    for name, value in state(one).items():
        np.testing.assert_array_equal(to_host(state(other)[name]), to_host(value), err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recipe", sorted(recipes.RECIPES))
def test_replayed_steps_are_the_steps(recipe, dtype):
    recorded, plain = trainer(recipe, dtype), trainer(recipe, dtype)
    plain.not_recorded = "to compare"
    for _ in range(5):
        a, b = recorded.step(), plain.step()
        assert (a.loss, a.auxiliary_loss, a.gradient_norm, a.expert_load) == (
            b.loss, b.auxiliary_loss, b.gradient_norm, b.expert_load
        )  # fmt: skip
        assert a.dropped_fraction == b.dropped_fraction
    assert_same(recorded, plain)
    assert recorded.not_recorded == NOT_RECORDED.get(recipe)


def test_several_passes_of_one_step():
    recorded, plain = trainer(accumulate=3), trainer(accumulate=3)
    plain.not_recorded = "to compare"
    for _ in range(4):
        assert recorded.step().loss == plain.step().loss
    assert recorded.not_recorded is None
    assert_same(recorded, plain)


def test_what_changes_in_between_is_noticed():
    recorded, plain = trainer(), trainer()
    plain.not_recorded = "to compare"
    for step in range(8):
        for t in (recorded, plain):
            if step == 3:
                t.model.embedding.weight.requires_grad = False
            if step == 5:
                t.model.norm.weight.data = t.model.norm.weight.data * 2
        assert recorded.step().loss == plain.step().loss
    assert recorded.not_recorded is None
    assert_same(recorded, plain)
