from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy import kernels
from moe_numpy.accounting import expected_remote_devices
from moe_numpy.accounting.plan import reach, shards
from moe_numpy.moe.routing import Batch
from moe_numpy.moe.selection import GroupLimited


def enumerated(held, nodes, top_k, limit):
    """Mean numbers of devices and of nodes, over every set of nodes and every set of experts on them."""
    each = len(held) // nodes
    device_of = [i for i, experts in enumerate(held) for _ in range(experts)]
    of_sets = []
    for usable in combinations(range(nodes), limit or nodes):
        experts = [device for device in device_of if device // each in usable]
        chosen = [set(devices) for devices in combinations(experts, top_k)]
        of_sets.append((fmean(map(len, chosen)), fmean(len({i // each for i in devices}) for devices in chosen)))
    return tuple(map(fmean, zip(*of_sets, strict=True)))


@pytest.mark.parametrize(
    ("held", "nodes", "top_k", "limit"),
    [
        ((2, 2, 2, 2), 2, 3, None),
        ((2, 2, 2, 2), 4, 2, 2),
        ((1, 2, 1, 2), 2, 3, None),
        ((3, 1, 0, 2, 1, 2), 3, 2, 2),
        ((1, 0, 1, 0, 1, 1), 3, 1, 1),
        ((2, 1, 2, 3), 4, 3, 3),
        ((5,), 1, 4, None),
        ((1, 1, 1), 3, 3, 3),
    ],
)
def test_expectations_equal_an_enumeration(held, nodes, top_k, limit):
    found = reach(held, nodes, top_k, limit)
    assert (found.devices, found.nodes) == pytest.approx(enumerated(held, nodes, top_k, limit))


@given(st.data())
def test_bounds(data):
    nodes, each = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    experts = data.draw(st.integers(nodes * each, 40))
    top_k = data.draw(st.integers(1, experts // (nodes * each)))
    limit = data.draw(st.integers(1, nodes))
    found = reach(shards(experts, nodes * each), nodes, top_k, limit)
    free = reach(shards(experts, nodes * each), nodes, top_k)
    tiny = 1e-9
    assert 1 - tiny <= found.nodes <= min(limit, found.devices) + tiny
    assert found.devices <= min(top_k, limit * each) + tiny
    assert found.nodes <= free.nodes + tiny


@pytest.mark.parametrize(("experts", "top_k", "devices", "limit"), [(256, 8, 8, None), (256, 8, 8, 4), (160, 6, 40, 3)])
def test_even_shards_agree_with_the_formula_of_count(experts, top_k, devices, limit):
    remote = reach(shards(experts, devices), devices, top_k, limit).devices * (devices - 1) / devices
    assert remote == pytest.approx(expected_remote_devices(experts, top_k, devices, limit))


def test_deepseek_v3_and_its_own_router():
    """Of 4 nodes 3.63 are used; the router, which takes the nodes with the best experts, uses 3.95."""
    model = reach(shards(256, 64), 8, 8, 4)
    assert model.nodes == pytest.approx(3.629, abs=1e-3)
    assert model.devices == pytest.approx(7.359, abs=1e-3)
    scores = np.random.default_rng(0).random((1000, 256))
    with kernels.use("numpy"):
        candidates = GroupLimited(8, 8, 4)(scores, Batch(sequence_length=1))
    nodes = len(set(zip(candidates.token, candidates.expert // 32, strict=True))) / 1000
    devices = len(set(zip(candidates.token, candidates.expert // 4, strict=True))) / 1000
    assert nodes == pytest.approx(3.955, abs=0.03)
    assert devices == pytest.approx(model.devices, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 2, 2), 2, 1), "nodes must divide the 3 devices, got 2"),
        (((2, 2), 0, 1), "nodes must divide the 2 devices, got 0"),
        (((2, 2), 2, 5), "top_k must be between 1 and num_experts=4, got 5"),
        (((2, 2), 2, 0), "top_k must be between 1 and num_experts=4, got 0"),
        (((2, 2), 2, 3, 1), "node_limit must be between 2 and nodes=2, got 1"),
        (((2, 2), 2, 3, 3), "node_limit must be between 2 and nodes=2, got 3"),
        (((3, 1), 2, 2, 1), "node_limit must be between 2 and nodes=2, got 1"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        reach(*arguments)
