import numpy as np
import pytest

from moe_numpy.nn import KeyValueCache


def tokens(n, start=0, batch=1, heads=2, width=4, dtype=np.float32):
    k = np.arange(start, start + n, dtype=dtype)[:, None] + np.zeros((batch, heads, n, width), dtype)
    return k, -k


def test_returns_everything_so_far_in_order():
    cache = KeyValueCache((1, 2, 5, 4))
    cache.append(*tokens(3))
    k, v = cache.append(*tokens(2, start=3))
    np.testing.assert_array_equal(k[0, 1, :, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(v, -k)
    assert k.dtype == np.float32
    assert cache.length == 5
    assert np.shares_memory(k, cache.keys)


def test_a_full_cache_says_so_and_keeps_what_it_has():
    cache = KeyValueCache((1, 2, 4, 4))
    cache.append(*tokens(3))
    with pytest.raises(ValueError, match="the cache holds 3 of 4 tokens and cannot take 2 more; start a new one"):
        cache.append(*tokens(2))
    assert cache.length == 3


@pytest.mark.parametrize("other", [{"batch": 2}, {"heads": 1}, {"width": 1}, {"dtype": np.float64}])
def test_other_shapes_and_types_are_refused(other):
    cache = KeyValueCache((1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"the cache takes float32 keys of shape \(1, 2, 3, 4\), got float"):
        cache.append(*tokens(3, **other))
    assert cache.length == 0


def test_room_for_a_long_context_grows_with_the_text():
    cache = KeyValueCache((1, 2, 10**12, 4))
    start = 0
    for n in (4000, 200, 1, 9000):
        k, v = cache.append(*tokens(n, start=start))
        start += n
    np.testing.assert_array_equal(k[0, 1, :, 0], np.arange(start))
    np.testing.assert_array_equal(v, -k)
    assert cache.keys.shape[2] < 2 * start
