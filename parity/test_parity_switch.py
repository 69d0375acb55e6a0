"""Switch Transformer: one expert, its raw probability, and a capacity counted in each sequence."""

from dataclasses import replace

import numpy as np
import pytest
import weights
from comparison import DTYPES, compare, randomize
from transformers.models.switch_transformers.configuration_switch_transformers import SwitchTransformersConfig
from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersSparseMLP

from moe_numpy.moe import MoE, recipes
from moe_numpy.moe.capacity import Capacity

# (sequences, length), d, f, E, places of an expert in each sequence
SIZES = [((2, 7), 16, 12, 8, 64), ((1, 33), 8, 20, 5, 7), ((4, 12), 12, 8, 4, 3), ((3, 8), 12, 8, 4, 1)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_block(size, dtype, seed, check):
    rng = np.random.default_rng(seed)
    (batch, length), d, f, num_experts, places = size
    config = SwitchTransformersConfig(d_model=d, d_ff=f, num_experts=num_experts, expert_capacity=places)
    peer = randomize(SwitchTransformersSparseMLP(config), rng, dtype)
    peer.router.dtype = DTYPES[dtype]  # the module works in float64, only its configuration does not know the name
    recipe = recipes.switch()
    # The peer is told C itself; the recipe computes it, by default for the whole batch.
    capacity = Capacity(places * num_experts / length, scope="sequence")
    recipe = replace(recipe, router=replace(recipe.router, capacity=capacity))
    ours = MoE(d, f, num_experts, recipe, rng=rng, dtype=dtype)
    assert capacity.size(length, num_experts, 1) == places
    differences = compare(ours, peer, weights.switch, (batch, length, d), rng)
    check("switch", dtype, differences, 1e-5 if dtype == "float32" else 1e-10)
