from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.accounting import all_to_all, published
from moe_numpy.accounting.plan import COPIES, Hardware, Layout, Links, bytes_sent, rows_sent, shards

DEEPSEEK = published("deepseek-v3").architecture
EIGHT_NODES = Layout(64, 8, 64)


def hops(home, chosen, each, copies):
    """The links that the rows of one token take, from device to device."""
    if copies == "expert":
        return [(home, device) for device in chosen]
    if copies == "device":
        return [(home, device) for device in set(chosen)]
    sent = set()
    for device in set(chosen):
        relay = device // each * each + home % each
        sent |= {(home, relay), (relay, device)}
    return sent


def enumerated(num_experts, devices, nodes, top_k, copies):
    each = devices // nodes
    device_of = [i for i, experts in enumerate(shards(num_experts, devices)) for _ in range(experts)]
    found = Counter()
    sets = list(combinations(device_of, top_k))
    for home in range(devices):
        for chosen in sets:
            for a, b in hops(home, chosen, each, copies):
                if a != b:
                    found["within" if a // each == b // each else "between"] += 1 / devices / len(sets)
    return found["within"], found["between"]


@pytest.mark.parametrize("copies", COPIES)
@pytest.mark.parametrize(
    ("num_experts", "devices", "nodes", "top_k"), [(8, 4, 2, 3), (8, 4, 4, 2), (7, 6, 2, 3), (6, 6, 1, 2), (3, 6, 3, 2)]
)
def test_rows_equal_an_enumeration(num_experts, devices, nodes, top_k, copies):
    rows = rows_sent(Layout(devices, nodes, devices), num_experts, top_k, copies)
    assert (rows.within, rows.between) == pytest.approx(enumerated(num_experts, devices, nodes, top_k, copies))


@given(st.data())
def test_fewer_copies_are_never_more_rows(data):
    nodes, each = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    devices = nodes * each
    top_k = data.draw(st.integers(1, 12))
    experts = data.draw(st.integers(max(top_k, devices), 80))
    per_node = experts // nodes
    limit = data.draw(st.integers(min(-(-top_k // per_node), nodes), nodes))
    by = {copies: rows_sent(Layout(devices, nodes, devices), experts, top_k, copies, limit) for copies in COPIES}
    tiny = 1e-9
    assert by["node"].between <= by["device"].between + tiny <= by["expert"].between + 2 * tiny
    assert by["device"].within <= by["expert"].within + tiny
    assert min(min(rows.within, rows.between) for rows in by.values()) >= -tiny
    if nodes == 1:
        assert by["node"].within == pytest.approx(by["device"].within)
        assert all(rows.between == 0 for rows in by.values())


@pytest.mark.parametrize("copies", COPIES)
def test_one_device_moves_nothing(copies):
    assert rows_sent(Layout(1, 1, 1), 8, 2, copies).total == 0
    assert rows_sent(Layout(16, 2, 1), 8, 2, copies).total == 0


def test_bytes_are_those_of_count():
    """In one layer, with a node for each device."""
    alone = Layout(8, 8, 8)
    counted = all_to_all(DEEPSEEK, "bf16", devices=8, device_limit=4).per_device
    sent = bytes_sent(rows_sent(alone, 256, 8, "device", 4), 7168, "bf16", "bf16")
    assert 58 * sent.total == pytest.approx(counted)
    assert bytes_sent(Links(1.0, 2.0), 7168, "fp8", "bf16") == Links(3 * 7168, 2 * 3 * 7168)


def test_experts_per_node_that_nvlink_carries_while_infiniband_is_busy():
    """DeepSeek-V3, section 3.2.2: 160 / 50 = 3.2 experts on each of 4 nodes, or 13 in all, cost no time."""
    hardware = Hardware(1e12, 1.0, within=160e9, between=50e9)

    def nvlink_is_faster(rows):
        return rows.within / hardware.within <= rows.between / hardware.between

    assert hardware.within / hardware.between == pytest.approx(3.2)
    forwarded = [k for k in range(1, 33) if nvlink_is_faster(Links(within=k, between=4))]
    assert max(forwarded) + 1 == 13  # 12.8 experts, rounded
    ours = [k for k in range(4, 33) if nvlink_is_faster(rows_sent(EIGHT_NODES, 256, k, "node", 4))]
    assert ours == list(range(4, max(ours) + 1))
    assert max(ours) == 14  # once to each GPU, which may have two of the experts


def test_the_node_limit_of_deepseek_v3_saves_a_third_between_nodes():
    limited, free = (rows_sent(EIGHT_NODES, 256, 8, "node", limit) for limit in (4, None))
    assert limited.between == pytest.approx(3.629 * 7 / 8, abs=1e-3)
    assert limited.within == pytest.approx(7.359 * 7 / 8, abs=1e-3)
    assert limited.between / free.between == pytest.approx(0.686, abs=1e-3)
    assert rows_sent(EIGHT_NODES, 256, 8, "expert", 4).between == 7


def test_a_limit_of_more_nodes_than_there_are_is_none():
    assert rows_sent(Layout(8, 1, 8), 64, 8, "node", 4) == rows_sent(Layout(8, 1, 8), 64, 8, "node")


def test_unknown_copies_are_refused():
    with pytest.raises(ValueError, match="copies must be one of expert, device, node, got 'none'"):
        rows_sent(EIGHT_NODES, 256, 8, "none")
