import pytest

from moe_numpy.accounting.recorded_sweep import recorded_sweep
from moe_numpy.accounting.scaling_laws import Point


def test_both_sweeps_are_shipped():
    large, small = recorded_sweep(), recorded_sweep("small")
    assert (len(large), len(small)) == (53, 44)
    assert {m.parameters for m in large} == {16 * 4 * d * d for d in (32, 64, 128, 256)}
    dense = next(m for m in large if (m.parameters, m.experts, m.tokens) == (65536, 1, 2**21))
    assert dense.point == Point(65536, dense.loss, 2**21, 1, 1)
    assert 1.41 < dense.loss < 1.42


def test_an_unknown_sweep():
    with pytest.raises(ValueError, match=r"one of \['large', 'small'\], got 'huge'"):
        recorded_sweep("huge")
