"""Mixtral, OLMoE, Qwen2-MoE, Qwen3-MoE and DBRX: softmax, top-k, and different ways to normalise."""

import numpy as np
import pytest
import weights
from comparison import compare, compare_experts, randomize
from transformers.models.dbrx.configuration_dbrx import DbrxConfig
from transformers.models.dbrx.modeling_dbrx import DbrxFFN
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.olmoe.configuration_olmoe import OlmoeConfig
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen2_moe.configuration_qwen2_moe import Qwen2MoeConfig
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from moe_numpy.moe import MoE, recipes

# (sequences, length), d, f, E, k
SIZES = [((2, 7), 16, 12, 8, 2), ((1, 33), 8, 20, 5, 1), ((3, 5), 12, 8, 16, 8), ((1, 1), 16, 8, 4, 4)]


def mixtral(d, f, num_experts, k):
    config = MixtralConfig(hidden_size=d, intermediate_size=f, num_local_experts=num_experts, num_experts_per_tok=k)
    return MixtralSparseMoeBlock(config), recipes.mixtral(top_k=k), weights.mixtral


def olmoe(d, f, num_experts, k):
    config = OlmoeConfig(
        hidden_size=d, intermediate_size=f, num_experts=num_experts, num_experts_per_tok=k, norm_topk_prob=False
    )
    return OlmoeSparseMoeBlock(config), recipes.olmoe(top_k=k), weights.olmoe


def qwen2_moe(d, f, num_experts, k, normalize=False):
    config = Qwen2MoeConfig(
        hidden_size=d,
        moe_intermediate_size=f,
        shared_expert_intermediate_size=2 * f,
        num_experts=num_experts,
        num_experts_per_tok=k,
        norm_topk_prob=normalize,
    )
    recipe = recipes.qwen2_moe(top_k=k, normalize=normalize, shared_experts=2)
    return Qwen2MoeSparseMoeBlock(config), recipe, weights.qwen2_moe


def qwen3_moe(d, f, num_experts, k, normalize=True):
    config = Qwen3MoeConfig(
        hidden_size=d,
        moe_intermediate_size=f,
        num_experts=num_experts,
        num_experts_per_tok=k,
        norm_topk_prob=normalize,
    )
    return Qwen3MoeSparseMoeBlock(config), recipes.qwen3_moe(top_k=k, normalize=normalize), weights.qwen3_moe


def dbrx(d, f, num_experts, k, p=1.0):
    config = DbrxConfig(
        d_model=d,
        ffn_config={
            "hidden_size": d,
            "ffn_hidden_size": f,
            "moe_num_experts": num_experts,
            "moe_top_k": k,
            "moe_normalize_expert_weights": p,
        },
    )
    return DbrxFFN(config), recipes.dbrx(top_k=k, p=p), weights.dbrx


FAMILIES = {
    "mixtral": mixtral,
    "olmoe": olmoe,
    "qwen2_moe": qwen2_moe,
    "qwen2_moe normalized": lambda *size: qwen2_moe(*size, normalize=True),
    "qwen3_moe": qwen3_moe,
    "qwen3_moe not normalized": lambda *size: qwen3_moe(*size, normalize=False),
    "dbrx": dbrx,
    "dbrx p=2": lambda *size: dbrx(*size, p=2.0),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_block(family, size, dtype, seed, check):
    rng = np.random.default_rng(seed)
    (batch, length), *sizes = size
    d, f, num_experts, _ = sizes
    peer, recipe, to_ours = FAMILIES[family](*sizes)
    ours = MoE(d, f, num_experts, recipe, rng=rng, dtype=dtype)
    # All but DBRX take the softmax in float32, whatever the dtype of the logits.
    exact = dtype == "float64" and family.startswith("dbrx")
    differences = compare(ours, randomize(peer, rng, dtype), to_ours, (batch, length, d), rng)
    check(family, dtype, differences, 1e-10 if exact else 1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_experts_alone(family, size, check):
    rng = np.random.default_rng(2)
    (batch, length), *sizes = size
    d, f, num_experts, _ = sizes
    peer, recipe, to_ours = FAMILIES[family](*sizes)
    ours = MoE(d, f, num_experts, recipe, rng=rng, dtype="float64")
    differences = compare_experts(ours, randomize(peer, rng, "float64"), to_ours, batch * length, rng)
    check(f"{family}, experts alone", "float64", differences, 1e-10)
