import pytest

from moe_numpy.accounting import PUBLISHED
from moe_numpy.accounting.designs import designs


def test_all_that_is_counted_is_there_in_the_order_of_release():
    found = designs()
    assert {d.name for d in found} >= set(PUBLISHED)
    assert [d.released for d in found] == sorted(d.released for d in found)
    assert (found[0].year, found[-1].year) == (2017.0, 2026.25)
    assert all(0 < d.active < d.total and 1 <= d.top_k < d.num_experts and d.source for d in found)


def test_granularity_by_hand():
    by_name = {d.name: d for d in designs()}
    assert by_name["switch-base-128"].granularity == 1  # two matrices of 4 d
    assert by_name["deepseek-v3"].granularity == pytest.approx(8 * 7168 / (3 * 2048))
    assert by_name["shazeer-moe-256"].granularity == 2
    assert by_name["qwen2-57b-a14b"].shared_experts == 8
    assert by_name["mixtral-8x7b"].shared_experts == 0


def test_stated_sizes_agree_with_their_experts():
    # Shazeer et al. 2017: 256 experts of two 512 x 1024 matrices, two LSTM layers of width 512, router and noise
    moe = next(d for d in designs() if d.name == "shazeer-moe-256")
    expert, rest = 2 * 512 * 1024, 2 * 4 * (512 + 512) * 512 + 2 * 256 * 512
    assert moe.total == pytest.approx(256 * expert + rest, rel=1e-3)
    assert moe.active == pytest.approx(4 * expert + rest, rel=0.02)
