from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.accounting import (
    active_parameters,
    all_to_all,
    architecture_of,
    cache_bytes,
    total_parameters,
)
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.moe.recipes import RECIPES

CONFIG = ModelConfig(
    vocab_size=11,
    d_model=8,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    d_ff=6,
    num_experts=8,
    context=7,
)
NOT_COUNTED = {"hierarchical", "shazeer_2017", "soft_moe", "longcat", "mixture_of_depths"}
CONFIGS = {
    "default": ModelConfig(),
    **{recipe: replace(CONFIG, recipe=recipe) for recipe in RECIPES if recipe not in NOT_COUNTED},
    "switch_alternating": replace(CONFIG, recipe="switch", moe_every=2),
    "dense_width_given": replace(CONFIG, moe_every=3, dense_d_ff=9),
    "dense_twin": CONFIG.dense_twin(),
    "multi_head": replace(CONFIG, num_kv_heads=2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_counts_are_those_of_the_model(config):
    model = Transformer(config, rng=np.random.default_rng(0))
    architecture = architecture_of(config)
    assert total_parameters(architecture).with_embedding == model.num_parameters()
    assert active_parameters(architecture).with_embedding == model.active_parameters()


@pytest.mark.parametrize("recipe", sorted(NOT_COUNTED))
def test_a_recipe_with_parts_that_have_no_name_is_refused(recipe):
    with pytest.raises(ValueError, match=f"of recipe '{recipe}' cannot be counted as an Architecture"):
        architecture_of(replace(CONFIG, recipe=recipe))


def test_cache_is_that_of_the_model():
    caches = Transformer(CONFIG, rng=np.random.default_rng(0)).new_caches(1)
    allocated = sum(cache.keys.nbytes + cache.values.nbytes for cache in caches)
    assert cache_bytes(architecture_of(CONFIG), CONFIG.context, "fp32") == allocated


def test_a_dense_model_sends_nothing():
    traffic = all_to_all(architecture_of(CONFIG.dense_twin()), "fp32", devices=4)
    assert (traffic.per_assignment, traffic.per_device) == (0, None)
