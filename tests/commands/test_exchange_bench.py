import pytest

from benchmarks.exchange import Layer, saving
from moe_numpy.moe import recipes


def test_a_row_tells_what_copies_save():
    row = saving(Layer("small", 8, 8, 4, recipes.mixtral(top_k=4), 2))
    assert row["each_expected"] == 2
    assert row["each"] == pytest.approx(2, abs=0.3)
    assert row["once"] == pytest.approx(row["once_expected"], abs=0.05)  # 0.49: nearly every token, to the other rank
    assert row["sums_bytes"] < row["exact_bytes"]
    assert 0 < row["sums_error"] < 1e-5
