from itertools import combinations
from math import comb
from statistics import fmean

import pytest

from moe_numpy.accounting import PUBLISHED, all_to_all, expected_remote_devices


@pytest.mark.parametrize(
    ("num_experts", "top_k", "devices", "limit"),
    [
        (8, 2, 4, None),
        (8, 3, 2, None),
        (6, 6, 3, None),
        (8, 2, 8, None),
        (8, 3, 4, 2),
        (12, 2, 4, 3),
        (8, 2, 4, 1),
    ],
)
def test_expected_devices_equal_an_enumeration(num_experts, top_k, devices, limit):
    each = num_experts // devices
    counts = [
        len({e // each for e in chosen} - {home})
        for usable in combinations(range(devices), limit or devices)
        for chosen in combinations([e for e in range(num_experts) if e // each in usable], top_k)
        for home in range(devices)
    ]
    assert expected_remote_devices(num_experts, top_k, devices, limit) == pytest.approx(fmean(counts))


def test_one_device_sends_nothing():
    assert expected_remote_devices(8, 2, 1) == 0


@pytest.mark.parametrize(
    ("devices", "limit", "message"),
    [
        (3, None, "devices must divide num_experts=8, got 3"),
        (0, None, "devices must divide num_experts=8, got 0"),
        (16, None, "devices must divide num_experts=8, got 16"),
        (4, 5, "device_limit must be between 2 and devices=4, got 5"),
        (4, 1, "device_limit must be between 2 and devices=4, got 1"),
        (4, 0, "device_limit must be between 2 and devices=4, got 0"),
    ],
)
def test_impossible_layouts_are_refused(devices, limit, message):
    with pytest.raises(ValueError, match=message):
        expected_remote_devices(8, 3, devices, limit)


def test_traffic_of_deepseek_v3():
    traffic = all_to_all(PUBLISHED["deepseek-v3"].architecture, "fp8", devices=8, device_limit=4)
    row = 58 * 2 * 7168
    assert traffic.per_assignment == row * 8
    assert traffic.per_device == pytest.approx(row * 7 / 8 * 4 * (1 - comb(96, 8) / comb(128, 8)))


def test_traffic_without_devices_or_without_experts():
    mixtral = PUBLISHED["mixtral-8x7b"].architecture
    assert all_to_all(mixtral, "bf16").per_device is None
    with pytest.raises(ValueError, match="device_limit=2 needs the number of devices"):
        all_to_all(mixtral, "bf16", device_limit=2)
