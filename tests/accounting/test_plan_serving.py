from dataclasses import replace

import pytest

from moe_numpy.accounting import (
    FeedForward,
    active_parameters,
    cache_bytes,
    decoding,
    flops_per_token,
    published,
    total_parameters,
)
from moe_numpy.accounting.plan import Hardware, Layout, serving

DEEPSEEK, MIXTRAL = published("deepseek-v3").architecture, published("mixtral-8x7b").architecture
H800 = Hardware(peak=989.4e12, utilisation=0.5, within=160e9, between=50e9)


def test_one_device_is_that_of_decoding():
    found = serving(MIXTRAL, Layout(1, 1, 1), H800, 1e12, texts=5, context=100)
    alone = decoding(MIXTRAL, 5, 100, "bf16")
    assert found.read == pytest.approx(5 * alone.bytes)
    assert found.memory_seconds == found.read / 1e12
    assert found.compute_seconds == pytest.approx(5 * alone.flops / (0.5 * 989.4e12))
    assert (found.exchange_seconds, found.seconds) == (0, max(found.memory_seconds, found.compute_seconds))
    assert found.weights == 2 * total_parameters(MIXTRAL).with_embedding
    assert found.cache == 5 * cache_bytes(MIXTRAL, 100, "bf16")


def test_the_speed_limit_of_deepseek_v3():
    """(1 + 2) · 32 · 9 · 7K / 50 GB/s = 121 µs for each all-to-all pair (arXiv 2505.09343, section 2.3.2).

    The ninth row is the shared expert's, elsewhere there; one row in 256 stays here; and 7K is 7,168.
    """
    layout = Layout(256, 256, 256)
    nine = replace(DEEPSEEK, top_k=9)
    found = serving(nine, layout, H800, 3350e9, texts=32, context=1, dispatch="fp8", copies="expert")
    assert found.exchange_seconds / 58 == pytest.approx(120.96e-6 * 7168 / 7000 * 255 / 256)
    eight = serving(DEEPSEEK, layout, H800, 3350e9, texts=32, context=1, dispatch="fp8", copies="expert")
    assert eight.exchange_seconds / found.exchange_seconds == pytest.approx(8 / 9)


def test_the_cache_of_deepseek_v3():
    """70.272 KB for each token (arXiv 2505.09343, table 1)."""
    found = serving(DEEPSEEK, Layout(8, 1, 8), H800, 1e12, texts=2, context=1000)
    assert found.cache == 2 * 1000 * 70272


def test_experts_are_shared_out():
    alone, shared = (serving(DEEPSEEK, Layout(n, 1, n), H800, 1e12, texts=32, context=1) for n in (1, 8))
    parts = total_parameters(DEEPSEEK)
    assert alone.weights - shared.weights == pytest.approx(2 * parts.experts.total * 7 / 8)
    uneven = serving(DEEPSEEK, Layout(6, 1, 6), H800, 1e12, texts=32, context=1)
    assert uneven.weights == pytest.approx(2 * (parts.with_embedding - parts.experts.total * (1 - 43 / 256)))


def test_the_fullest_device_and_overlap():
    given = {"texts": 64, "context": 1}
    slow = Hardware(1e12, 1.0, 1e9, 1e9)
    even, uneven = (serving(MIXTRAL, Layout(8, 1, 8), slow, 1e14, imbalance=i, **given) for i in (1.0, 2.0))
    experts = 64 * 2 * active_parameters(MIXTRAL).experts.multiplied / 1e12
    assert uneven.compute_seconds - even.compute_seconds == pytest.approx(experts)
    assert uneven.exchange_seconds == pytest.approx(2 * even.exchange_seconds)
    assert even.seconds == pytest.approx(even.compute_seconds + even.exchange_seconds)
    hidden = serving(MIXTRAL, Layout(8, 1, 8), slow, 1e14, overlap=True, **given)
    assert hidden.seconds == max(even.compute_seconds, even.exchange_seconds)


def test_a_dense_model_exchanges_nothing():
    dense = replace(MIXTRAL, num_experts=0, feed_forward=FeedForward(14336))
    found = serving(dense, Layout(8, 1, 1), H800, 1e12, texts=3, context=10)
    assert found.exchange_seconds == 0
    assert found.weights == 2 * total_parameters(dense).with_embedding
    assert found.compute_seconds == pytest.approx(3 * flops_per_token(dense, 10).forward / (0.5 * 989.4e12))


@pytest.mark.parametrize(
    ("name", "layout", "settings", "message"),
    [
        ("mixtral-8x7b", Layout(8, 1, 4, 2), {}, "serving is planned for 1 stage, got 2"),
        ("mixtral-8x7b", Layout(8, 1, 8), {"texts": 0}, "texts must be at least 1, got 0"),
        ("mixtral-8x7b", Layout(8, 1, 8), {"context": 0}, "context must be at least 1 token, got 0"),
        ("mixtral-8x7b", Layout(8, 1, 8), {"copies": "all"}, "copies must be one of"),
        ("mixtral-8x7b", Layout(8, 1, 8), {"weights": "fp9"}, "dtype must be one of"),
        ("switch-base-128", Layout(8, 1, 8), {}, "without an encoder, got one of 12 layers"),
    ],
)
def test_what_is_refused(name, layout, settings, message):
    with pytest.raises(ValueError, match=message):
        serving(published(name).architecture, layout, H800, 1e12, **{"texts": 1, "context": 1, **settings})


def test_memory_must_have_a_speed():
    with pytest.raises(ValueError, match="memory_bandwidth must be positive, got 0"):
        serving(MIXTRAL, Layout(8, 1, 8), H800, 0, texts=1, context=1)
