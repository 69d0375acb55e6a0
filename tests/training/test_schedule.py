import math
from itertools import pairwise

import pytest

from moe_numpy.training import WarmupCosine


def test_known_values():
    lr = WarmupCosine(peak=1.0, warmup_steps=4, total_steps=24, floor=0.2)
    assert [lr(s) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert lr(9) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)  # a quarter of the way down
    assert lr(14) == pytest.approx(0.6)
    assert lr(24) == lr(25) == lr(10**9) == 0.2


def test_the_floor_is_a_tenth_of_the_peak_by_default():
    assert WarmupCosine(3e-3, 0, 10)(10) == pytest.approx(3e-4)
    assert WarmupCosine(3e-3, 0, 10, floor=0.0)(10) == 0.0


def test_no_warmup_starts_at_the_peak_and_falls_all_the_way():
    rates = [WarmupCosine(1.0, 0, 50)(s) for s in range(51)]
    assert rates[0] == 1.0
    assert all(a > b for a, b in pairwise(rates))


def test_warmup_alone():
    lr = WarmupCosine(1.0, 3, 3)
    assert [lr(s) for s in range(4)] == pytest.approx([0.25, 0.5, 0.75, 0.1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak": 0.0}, "peak must be a positive number, got 0.0"),
        ({"peak": math.nan}, "peak must be a positive number, got nan"),
        ({"warmup_steps": -1}, "warmup_steps must be between 0 and total_steps=10, got -1"),
        ({"warmup_steps": 11}, "warmup_steps must be between 0 and total_steps=10, got 11"),
        ({"floor": 2.0}, "floor must be between 0 and peak=1.0, got 2.0"),
        ({"floor": -0.1}, "floor must be between 0 and peak=1.0, got -0.1"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WarmupCosine(**({"peak": 1.0, "warmup_steps": 2, "total_steps": 10} | settings))
