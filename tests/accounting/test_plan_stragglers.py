import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.accounting.plan import imbalance, shards, skewed_imbalance, zipf_load


def test_imbalance_by_hand():
    load = np.array([[4.0, 0, 2, 2], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert imbalance(load, (2, 2)) == pytest.approx((1 + 1) / 2)
    assert imbalance(load, (1, 3)) == pytest.approx((1 + 3 / 2) / 2)
    assert imbalance(load, (1, 1, 1, 1)) == pytest.approx((2 + 1) / 2)
    assert imbalance(load[:, ::-1], (1, 3)) == pytest.approx((6 / 4 + 3 / 2) / 2)


def test_uneven_shards_are_uneven_loads():
    assert imbalance(np.ones((1, 7)), shards(7, 4)) == pytest.approx(2 / (7 / 4))
    assert imbalance(np.ones((1, 2)), shards(2, 4)) == pytest.approx(2)
    assert imbalance(np.ones((3, 8)), shards(8, 4)) == 1


@given(st.integers(1, 40), st.data())
def test_zipf_shares(num_experts, data):
    top_k = data.draw(st.integers(1, num_experts))
    exponent = data.draw(st.floats(0, 5))
    load = zipf_load(num_experts, top_k, exponent)
    assert load.sum() == pytest.approx(1)
    assert load.max() <= 1 / top_k + 1e-12
    assert (np.diff(load) <= 1e-12).all()
    below = load < 1 / top_k - 1e-9
    weights = np.arange(1, num_experts + 1) ** -exponent
    if below.any():
        assert load[below] / load[below].sum() == pytest.approx(weights[below] / weights[below].sum())


def test_zipf_shares_by_hand():
    assert zipf_load(3, 1, 1.0) == pytest.approx(np.array([6, 3, 2]) / 11)
    assert zipf_load(3, 2, 1.0) == pytest.approx([1 / 2, 3 / 10, 2 / 10])
    assert zipf_load(2, 2, 3.0) == pytest.approx([1 / 2, 1 / 2])
    assert zipf_load(4, 2, 1e300) == pytest.approx([1 / 2, 1 / 2, 0, 0])


def test_skew_makes_stragglers():
    """Equal without skew, more with it, and less with more experts on a device."""
    rng = np.random.default_rng(0)
    by_skew = [skewed_imbalance(64, 4, s, shards(64, 16), rng=rng) for s in (0.0, 0.5, 1.0)]
    assert by_skew[0] == pytest.approx(1)
    assert 1.3 < by_skew[1] < by_skew[2]
    assert skewed_imbalance(64, 4, 0.5, shards(64, 4), rng=rng) < by_skew[1]
    one_each = zipf_load(64, 4, 0.5).max() * 64
    assert skewed_imbalance(64, 4, 0.5, shards(64, 64), rng=rng) == pytest.approx(one_each)


def test_what_is_refused():
    with pytest.raises(ValueError, match="shards must have num_experts=4 experts in all, got 3"):
        imbalance(np.ones((1, 4)), (1, 2))
    with pytest.raises(ValueError, match="load must have a layer with assignments, got none"):
        imbalance(np.zeros((2, 4)), (2, 2))
    with pytest.raises(ValueError, match="exponent must be at least 0, got -1"):
        zipf_load(4, 1, -1.0)
    with pytest.raises(ValueError, match="top_k must be between 1 and num_experts=4, got 5"):
        zipf_load(4, 5, 1.0)
