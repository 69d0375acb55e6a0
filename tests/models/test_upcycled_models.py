"""A dense transformer made here as a sparse one: the same logits for every recipe that allows it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked_shapes import unchecked_shapes

from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.models.upcycling import upcycled, upcycled_config
from moe_numpy.moe.upcycling import plan

SIZES = {"vocab_size": 30, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "context": 12, "num_experts": 0}


def both(weights, copies, k, parts, d_model, d_ff, seed=0, reinitialise=0.0):
    """The logits of both models, and the configuration of the sparse one."""
    config = ModelConfig(**SIZES, d_model=d_model, d_ff=d_ff)
    sparse = upcycled_config(config, weights, copies, k, parts)
    rng = np.random.default_rng(seed)
    dense = Transformer(config, rng=rng).eval()
    how = plan(sparse.layer_recipe, copies, parts)
    made = upcycled(dense, sparse, how, rng=rng, reinitialise=reinitialise).eval()
    tokens = rng.integers(0, 30, (2, 12))
    return dense(tokens).logits.data, made(tokens).logits.data, made


@pytest.mark.parametrize("weights", ["renormalised", "raw"])
@settings(max_examples=10)
@given(data=st.data())
def test_the_logits_stay(weights, data):
    copies, parts = data.draw(st.integers(1, 6), "E"), data.draw(st.integers(1, 4), "G")
    k, d = data.draw(st.integers(1, copies), "k"), 4 * data.draw(st.integers(1, 4), "d / 4")
    width, seed = data.draw(st.integers(1, 6), "f / G"), data.draw(st.integers(0, 99))
    with unchecked_shapes():
        dense, sparse, made = both(weights, copies, k, parts, d, width * parts, seed)
    assert np.abs(dense - sparse).max() < 1e-5
    assert made.config.num_experts == copies * parts
    assert made.layers[0].feed_forward.router.per_token == k * parts


@pytest.mark.parametrize("recipe", ["st_moe", "deepseek_v3", "qwen2_moe", "deepseek_v2", "dbrx", "quantile", "llama4"])
def test_recipes_with_parts_of_their_own(recipe):
    dense, sparse, made = both(recipe, 8, 2, 1, 8, 12)
    assert np.abs(dense - sparse).max() < 1e-5
    assert made.config.recipe == recipe
    assert not np.shares_memory(made.layers[0].attention.query.weight.data, dense)


def test_units_drawn_anew_change_the_function():
    dense, sparse, _ = both("renormalised", 4, 2, 1, 8, 12, reinitialise=0.5)
    assert np.abs(dense - sparse).max() > 1e-3


def test_refusals():
    config = ModelConfig(**SIZES, d_model=8, d_ff=12)
    sparse = upcycled_config(config, "raw", 4, 2)
    for arguments, why in [
        ((sparse, "raw", 4), "4 experts in 2 of 2 layers already"),
        ((config, "raw", 4, 2, 5), "granularity must divide d_ff=12, got 5"),
        ((config, "raw", 0), "must be at least 1, got 0"),
        ((config, "jacobs_1991", 4, 2), "jacobs_1991 has no setting top_k"),
        ((config, "mixtrel", 4), "did you mean mixtral"),
    ]:
        with pytest.raises(ValueError, match=why):
            upcycled_config(*arguments)
