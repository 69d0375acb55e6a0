"""Llama 4: σ of the best logits scales what the experts see; a shared expert beside them."""

import numpy as np
import pytest
import weights
from comparison import compare, randomize
from transformers.models.llama4.configuration_llama4 import Llama4TextConfig
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe

from moe_numpy.moe import MoE, recipes

# (sequences, length), d, f, E, k
SIZES = [((2, 7), 16, 12, 8, 1), ((1, 33), 8, 20, 5, 1), ((3, 5), 12, 8, 16, 3), ((1, 1), 16, 8, 4, 4)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_block(size, dtype, seed, check):
    rng = np.random.default_rng(seed)
    (batch, length), d, f, num_experts, k = size
    config = Llama4TextConfig(hidden_size=d, intermediate_size=f, num_local_experts=num_experts, num_experts_per_tok=k)
    peer = randomize(Llama4TextMoe(config), rng, dtype)
    ours = MoE(d, f, num_experts, recipes.llama4(top_k=k), rng=rng, dtype=dtype)
    differences = compare(ours, peer, weights.llama4, (batch, length, d), rng)
    # The peer takes σ in float32, whatever the dtype of the logits.
    check("llama4", dtype, differences, 1e-5)
