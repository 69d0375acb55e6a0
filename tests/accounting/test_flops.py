from dataclasses import replace

import pytest

from moe_numpy.accounting import (
    PUBLISHED,
    Architecture,
    FeedForward,
    GroupedQueryAttention,
    LatentAttention,
    flops_per_token,
)

MIXTRAL = Architecture(
    d_model=32,
    vocab_size=96,
    num_layers=3,
    attention=GroupedQueryAttention(4, 2, 8),
    expert=FeedForward(40),
    num_experts=4,
    top_k=2,
)
DEEPSEEK_V3 = Architecture(
    d_model=32,
    vocab_size=96,
    num_layers=3,
    attention=LatentAttention(4, query_rank=20, kv_rank=12, d_nope=8, d_rope=4, d_value=6),
    feed_forward=FeedForward(48),
    expert=FeedForward(24),
    num_experts=8,
    top_k=2,
    shared_expert=FeedForward(24),
    first_dense_layers=1,
)
SWITCH = Architecture(
    d_model=32,
    vocab_size=96,
    num_layers=4,
    attention=GroupedQueryAttention(4, 4, 8),
    feed_forward=FeedForward(48, gated=False),
    expert=FeedForward(48, gated=False),
    num_experts=8,
    top_k=1,
    moe_every=2,
    num_encoder_layers=4,
    tied_embeddings=True,
    relative_positions=32,
)


@pytest.mark.parametrize(
    ("architecture", "forward", "backward"),
    [(MIXTRAL, 1_241_088, 2_482_176), (DEEPSEEK_V3, 1_156_096, 2_312_192), (SWITCH, 2_883_584, 5_767_168)],
    ids=["mixtral", "deepseek_v3", "switch"],
)
def test_sixteen_tokens_need_what_the_reference_implementations_use(architecture, forward, backward):
    """Measured with PyTorch's FlopCounterMode on models of these sizes; they compute all 16 x 16 scores."""
    flops = flops_per_token(architecture, context=16)
    assert (16 * flops.forward, 16 * flops.backward) == (forward, backward)


def test_scores_grow_with_the_context_and_weights_do_not():
    short, long = flops_per_token(MIXTRAL, 10), flops_per_token(MIXTRAL, 1000)
    assert long.weights == short.weights
    assert long.scores == 100 * short.scores == 2 * 3 * 2 * 4 * 8 * 1000


def test_local_layers_stop_at_their_window():
    local = replace(MIXTRAL, num_local_layers=2, attention_window=10)
    assert flops_per_token(local, 10) == flops_per_token(MIXTRAL, 10)
    assert flops_per_token(local, 30).scores * 90 == flops_per_token(MIXTRAL, 30).scores * (30 + 10 + 10)


def test_biases_norms_and_lookups_cost_no_multiply_adds():
    with_biases = replace(
        MIXTRAL,
        attention=replace(MIXTRAL.attention, qkv_bias=True, output_bias=True, sinks=True, qk_norm="full"),
        expert=FeedForward(40, bias=True),
        router_bias=True,
        tied_embeddings=True,
    )
    assert flops_per_token(with_biases, 7) == flops_per_token(MIXTRAL, 7)


def test_mixtral_8x7b_needs_two_flops_per_active_weight():
    flops = flops_per_token(PUBLISHED["mixtral-8x7b"].architecture, 4096)
    assert flops.weights == 2 * (12_879_925_248 - 32000 * 4096 - 65 * 4096)


def test_an_empty_context_is_refused():
    with pytest.raises(ValueError, match="context must be at least 1 token, got 0"):
        flops_per_token(MIXTRAL, 0)
