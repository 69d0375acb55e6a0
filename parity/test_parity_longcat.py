"""LongCat-Flash: real and zero-computation experts, chosen by p + b."""

import numpy as np
import pytest
import weights
from comparison import compare, compare_experts, randomize
from transformers.models.longcat_flash.configuration_longcat_flash import LongcatFlashConfig
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashMoE

from moe_numpy.moe import MoE, recipes

# (sequences, length), d, f, real experts, zero experts, k; the peer fails for k = 1
SIZES = [((2, 7), 16, 12, 8, 4, 3), ((1, 33), 8, 20, 5, 3, 2), ((3, 5), 12, 8, 12, 8, 12), ((1, 1), 16, 8, 4, 1, 5)]


def build(d, f, num_experts, zero_experts, k):
    config = LongcatFlashConfig(
        hidden_size=d,
        expert_ffn_hidden_size=f,
        n_routed_experts=num_experts,
        zero_expert_num=zero_experts,
        moe_topk=k,
        routed_scaling_factor=6.0,
    )
    return LongcatFlashMoE(config), recipes.longcat(top_k=k, zero_experts=zero_experts, scale=6.0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_block(size, dtype, seed, check):
    rng = np.random.default_rng(seed)
    (batch, length), *sizes = size
    peer, recipe = build(*sizes)
    ours = MoE(*sizes[:3], recipe, rng=rng, dtype=dtype)
    differences = compare(ours, randomize(peer, rng, dtype), weights.longcat, (batch, length, sizes[0]), rng)
    assert np.abs(ours.router.balancer_state.data).max() > 0.1
    # The router casts tokens and weights to float32.
    check("longcat", dtype, differences, 1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_experts_alone(size, check):
    rng = np.random.default_rng(2)
    (batch, length), *sizes = size
    peer, recipe = build(*sizes)
    ours = MoE(*sizes[:3], recipe, rng=rng, dtype="float64")
    differences = compare_experts(ours, randomize(peer, rng, "float64"), weights.longcat, batch * length, rng)
    check("longcat, experts alone", "float64", differences, 1e-10)
