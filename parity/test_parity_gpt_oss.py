"""gpt-oss: biases everywhere, softmax of the selected logits, a clamped SwiGLU with gate and up in turn."""

import numpy as np
import pytest
import weights
from comparison import compare, randomize
from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

from moe_numpy.moe import MoE, recipes

# (sequences, length), d, f, E, k, standard deviation of the weights: at 2 many values meet the limits of 7
SIZES = [
    ((2, 7), 16, 12, 8, 2, 0.3),
    ((1, 33), 8, 20, 5, 1, 0.3),
    ((3, 5), 12, 8, 16, 4, 2.0),
    ((1, 1), 16, 8, 4, 4, 2.0),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_block(size, dtype, seed, check):
    rng = np.random.default_rng(seed)
    (batch, length), d, f, num_experts, k, std = size
    config = GptOssConfig(hidden_size=d, intermediate_size=f, num_local_experts=num_experts, num_experts_per_tok=k)
    peer = randomize(GptOssMLP(config), rng, dtype, std)
    ours = MoE(d, f, num_experts, recipes.gpt_oss(top_k=k), rng=rng, dtype=dtype)
    differences = compare(ours, peer, weights.gpt_oss, (batch, length, d), rng)
    check("gpt_oss", dtype, differences, 1e-5 if dtype == "float32" else 1e-10)
