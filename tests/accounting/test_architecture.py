from dataclasses import replace

import pytest

from moe_numpy.accounting import (
    Architecture,
    FeedForward,
    GroupedQueryAttention,
    LatentAttention,
    active_parameters,
    total_parameters,
)

ATTENTION = GroupedQueryAttention(4, 2, 8)
SPARSE = Architecture(
    d_model=32,
    vocab_size=96,
    num_layers=3,
    attention=ATTENTION,
    expert=FeedForward(40),
    num_experts=4,
    top_k=2,
)


def test_parts_by_hand():
    parts = total_parameters(
        replace(
            SPARSE,
            feed_forward=FeedForward(10, gated=False, bias=True),
            expert=FeedForward(40, bias=True),
            shared_expert=FeedForward(6),
            shared_expert_gate=True,
            router_bias=True,
            first_dense_layers=1,
        )
    ).parts()
    assert parts == {
        "embedding": 96 * 32,
        "attention": 3 * (32 * 32 + 2 * 32 * 16 + 32 * 32),
        "norms": (2 * 3 + 1) * 32,
        "dense": 32 * 10 + 10 + 10 * 32 + 32,
        "router": 2 * (4 * 32 + 4),
        "experts": 2 * 4 * (3 * 32 * 40 + 2 * 40 + 32),
        "shared_experts": 2 * (3 * 32 * 6 + 32),
        "output": 96 * 32,
    }


@pytest.mark.parametrize(
    ("settings", "matrices", "others", "norms"),
    [
        ({}, 3072, 0, 0),
        ({"qkv_bias": True}, 3072, 32 + 2 * 16, 0),
        ({"output_bias": True}, 3072, 32, 0),
        ({"sinks": True}, 3072, 4, 0),
        ({"qk_norm": "head"}, 3072, 0, 2 * 8),
        ({"qk_norm": "full"}, 3072, 0, 32 + 16),
        ({"d_head": 5}, 2 * 32 * 20 + 2 * 32 * 10, 0, 0),
    ],
)
def test_grouped_query_attention(settings, matrices, others, norms):
    attention = replace(ATTENTION, **settings)
    entries = attention.entries(32)
    assert (entries.multiplied, entries.other, attention.norms().total) == (matrices, others, norms)


def test_latent_attention_without_query_rank_has_one_query_matrix():
    low_rank = LatentAttention(4, query_rank=20, kv_rank=12, d_nope=8, d_rope=4, d_value=6)
    direct = replace(low_rank, query_rank=None)
    keys_values_output = 32 * (12 + 4) + 12 * 4 * (8 + 6) + 4 * 6 * 32
    assert low_rank.entries(32).total == 32 * 20 + 20 * 4 * 12 + keys_values_output
    assert direct.entries(32).total == 32 * 4 * 12 + keys_values_output
    assert (low_rank.norms().total, direct.norms().total) == (20 + 12, 12)


def test_tied_embeddings_are_counted_once_and_stay_active():
    untied, tied = (active_parameters(replace(SPARSE, tied_embeddings=tied)) for tied in (False, True))
    assert untied.with_embedding - tied.with_embedding == 96 * 32
    assert tied.without_embedding == tied.with_embedding == untied.without_embedding


@pytest.mark.parametrize(
    ("settings", "sparse"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"moe_every": 2}, [1, 3, 5]),
        ({"moe_every": 4}, [1, 5]),
        ({"first_dense_layers": 2}, [2, 3, 4, 5]),
        ({"first_dense_layers": 2, "moe_every": 2}, [3, 5]),
        ({"num_experts": 0}, []),
    ],
)
def test_which_layers_are_sparse(settings, sparse):
    architecture = replace(SPARSE, num_layers=6, feed_forward=FeedForward(9), **settings)
    assert [i for i in range(6) if architecture.is_sparse(i, 6)] == sparse
    assert (architecture.num_sparse_layers, architecture.num_dense_layers) == (len(sparse), 6 - len(sparse))


def test_encoder_and_decoder():
    architecture = replace(SPARSE, num_encoder_layers=5, relative_positions=32)
    assert architecture.num_sparse_layers == 8
    parts = total_parameters(architecture).parts()
    assert parts["attention"] == (5 + 2 * 3) * 3072 + 2 * 32 * 4
    assert parts["norms"] == (5 * 2 + 3 * 3 + 2) * 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 0}, "d_model must be at least 1, got 0"),
        ({"num_layers": 10**9}, "num_layers must be at most 100,000, got 1000000000"),
        ({"num_experts": 10**30}, "num_experts must be at most 100,000, got 1000"),
        ({"moe_every": 0}, "moe_every must be at least 1, got 0"),
        ({"num_encoder_layers": -1}, "num_encoder_layers must be at least 0, got -1"),
        ({"top_k": 5}, "top_k must be between 1 and num_experts=4, got 5"),
        ({"top_k": 0}, "top_k must be between 1 and num_experts=4, got 0"),
        ({"expert": None}, "3 sparse layers need an expert"),
        ({"moe_every": 2}, "1 dense layers need a feed_forward"),
        ({"num_local_layers": 4}, "num_local_layers must be between 0 and num_layers=3, got 4"),
        ({"num_local_layers": 1}, "attention_window must be at least 1 where layers are local, got None"),
        ({"num_local_layers": 1, "attention_window": 0}, "attention_window must be .* got 0"),
    ],
)
def test_impossible_sizes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        replace(SPARSE, **settings)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="num_kv_heads must divide num_heads=4, got 3"):
        replace(ATTENTION, num_kv_heads=3)
    with pytest.raises(ValueError, match="qk_norm must be 'head', 'full' or None, got 'both'"):
        replace(ATTENTION, qk_norm="both")
    with pytest.raises(ValueError, match="query_rank must be at least 1, got 0"):
        LatentAttention(4, query_rank=0, kv_rank=12, d_nope=8, d_rope=4, d_value=6)
    with pytest.raises(ValueError, match="d_ff must be at least 1, got 0"):
        FeedForward(0)
