"""False alarms and misses over the two zoos, one seed here; measure_right.py and measure_wrong.py take more."""

import pytest
from measure_right import false_alarms
from measure_wrong import misses

pytestmark = pytest.mark.no_cover


def test_right_functions_pass():
    failed, runs = false_alarms(seeds=[11])
    assert runs > 150
    assert not failed, next(iter(failed.values()))


def test_wrong_gradients_are_found_and_described():
    missed, misnamed, runs = misses(seeds=[11])
    assert runs > 200
    assert not missed
    assert len(misnamed) <= 0.01 * runs, misnamed
