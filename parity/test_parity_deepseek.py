"""DeepSeek-V2 to V4: groups of experts, shared experts, and from V3 on a bias that moves the choice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import weights
from comparison import compare, compare_experts, difference, load, randomize
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4SparseMoeBlock

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import MoE, recipes
from moe_numpy.moe.selection import GivenTable

# (sequences, length), d, f, E, k, groups, groups chosen
SIZES = [
    ((2, 7), 16, 12, 16, 4, 4, 2),
    ((1, 33), 8, 20, 12, 1, 3, 1),
    ((3, 5), 12, 8, 32, 8, 8, 4),
    ((2, 3), 8, 8, 16, 6, 8, 3),
    ((2, 9), 8, 8, 8, 3, 1, 1),
]
FAMILIES = ("deepseek_v2", "deepseek_v2 greedy", "deepseek_v3", "deepseek_v4")


def build(family, d, f, num_experts, k, groups, top_groups):
    """The peer's block, our recipe, the function that maps weights."""
    sizes = {
        "hidden_size": d,
        "moe_intermediate_size": f,
        "n_routed_experts": num_experts,
        "num_experts_per_tok": k,
        "n_shared_experts": 2,
        "num_attention_heads": 1,  # unused here, but must divide hidden_size
    }
    if family == "deepseek_v3":
        config = DeepseekV3Config(**sizes, n_group=groups, topk_group=top_groups, routed_scaling_factor=2.5)
        recipe = recipes.deepseek_v3(top_k=k, num_groups=groups, top_groups=top_groups, scale=2.5, shared_experts=2)
        return DeepseekV3MoE(config), recipe, weights.deepseek_v3
    if family == "deepseek_v4":
        del sizes["num_attention_heads"]
        sizes |= {"n_shared_experts": 1, "num_hidden_layers": 1, "mlp_layer_types": ["moe"]}  # no table of token ids
        config = DeepseekV4Config(**sizes, routed_scaling_factor=1.5, swiglu_limit=1e9)  # nothing is clamped
        return DeepseekV4SparseMoeBlock(config, 0), recipes.deepseek_v4(top_k=k), weights.deepseek_v3
    greedy = family.endswith("greedy")  # DeepSeek-V2-Lite: no groups, which is one group
    method = {"topk_method": "greedy" if greedy else "group_limited_greedy"}
    config = DeepseekV2Config(**sizes, **method, n_group=groups, topk_group=top_groups, routed_scaling_factor=16.0)
    if greedy:
        groups = top_groups = 1
    recipe = recipes.deepseek_v2(top_k=k, num_groups=groups, top_groups=top_groups, scale=16.0, shared_experts=2)
    return DeepseekV2Moe(config), recipe, weights.deepseek_v2


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_block(family, size, dtype, seed, check):
    rng = np.random.default_rng(seed)
    (batch, length), *sizes = size
    peer, recipe, to_ours = build(family, *sizes)
    ours = MoE(*sizes[:3], recipe, rng=rng, dtype=dtype)
    peer = randomize(peer, rng, dtype)
    if family in ("deepseek_v3", "deepseek_v4"):
        # Biased scores below 0: an excluded group must be worse than any of them.
        peer.gate.e_score_correction_bias -= 1
    differences = compare(ours, peer, to_ours, (batch, length, sizes[0]), rng)
    # Both routers cast tokens and weights to float32.
    check(family, dtype, differences, 1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_experts_alone(family, size, check):
    rng = np.random.default_rng(2)
    (batch, length), *sizes = size
    peer, recipe, to_ours = build(family, *sizes)
    ours = MoE(*sizes[:3], recipe, rng=rng, dtype="float64")
    differences = compare_experts(ours, randomize(peer, rng, "float64"), to_ours, batch * length, rng)
    check(f"{family}, experts alone", "float64", differences, 1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("num_experts", "k"), [(8, 1), (8, 3), (6, 6)])
def test_table_of_token_ids(num_experts, k, dtype, check):
    """The first layers of DeepSeek-V4: a published table chooses, the scores only weigh. Values and gradients."""
    rng, d, f, vocab_size = np.random.default_rng(3), 12, 8, 11
    settings = {"hidden_size": d, "moe_intermediate_size": f, "n_routed_experts": num_experts, "vocab_size": vocab_size}
    settings |= {"num_experts_per_tok": k, "num_hidden_layers": 1, "mlp_layer_types": ["hash_moe"]}
    peer = DeepseekV4SparseMoeBlock(DeepseekV4Config(**settings, routed_scaling_factor=1.5, swiglu_limit=1e9), 0)
    peer = randomize(peer, rng, dtype)
    table = rng.permuted(np.tile(np.arange(num_experts), (vocab_size, 1)), axis=1)[:, :k]
    peer.gate.tid2eid.copy_(torch.from_numpy(table))

    recipe = recipes.deepseek_v4(top_k=k, hashed_ids=vocab_size)
    recipe = replace(recipe, router=replace(recipe.router, selection=GivenTable(table)))
    ours = MoE(d, f, num_experts, recipe, rng=rng, dtype=dtype)
    load(ours, weights.deepseek_v2({name: tensor.detach().numpy() for name, tensor in peer.state_dict().items()}))
    x, dy = (rng.standard_normal((2, 9, d)).astype(dtype) for _ in range(2))
    ids = rng.integers(0, vocab_size, (2, 9))
    mine, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, _ = ours(mine, None, ids)
    answer = peer(theirs, torch.from_numpy(ids))
    y.backward(dy)
    answer.backward(torch.from_numpy(dy))
    differences = {
        "y": difference(y.data, answer),
        "dx": difference(mine.grad, theirs.grad),
        "dW router": difference(ours.router.weight.grad, peer.gate.weight.grad),
    }
    check("deepseek_v4, table of ids", dtype, differences, 1e-5 if dtype == "float32" else 1e-10)
