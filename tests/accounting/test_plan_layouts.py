from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.accounting import PUBLISHED, flops_per_token, published, total_parameters
from moe_numpy.accounting.plan import Layout, Pipeline, evenly_cut, shards, stages_of

DECODERS = {n: m.architecture for n, m in PUBLISHED.items() if not m.architecture.num_encoder_layers}


@given(st.integers(0, 300), st.integers(1, 70))
def test_shards_are_even_and_complete(experts, devices):
    held = shards(experts, devices)
    assert (len(held), sum(held)) == (devices, experts)
    assert max(held) - min(held) <= 1


def test_the_layout_of_deepseek_v3():
    layout = Layout(2048, 256, 64, 16)
    assert (layout.devices_per_node, layout.data_parallel) == (8, 128)
    assert (layout.expert_replicas, layout.expert_nodes) == (2, 8)


@pytest.mark.parametrize(
    ("devices", "nodes", "experts", "stages", "widest"),
    [
        (64, 8, 256, 1, 64),
        (64, 8, 8, 1, 8),
        (2048, 256, 256, 16, 128),
        (24, 3, 16, 1, 8),
        (8, 1, 6, 1, 4),
        (4, 1, 0, 1, 1),
    ],
)
def test_experts_are_spread_as_far_as_each_device_gets_one(devices, nodes, experts, stages, widest):
    assert Layout.spread(devices, nodes, experts, stages).expert_parallel == widest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((64, 7, 8), "nodes must divide devices=64, got 7"),
        ((64, 8, 8, 5), "stages must divide devices=64, got 5"),
        ((64, 8, 3), "expert_parallel must divide the 64 devices of a stage, got 3"),
        ((72, 6, 8), "must divide the 12 devices of a node or be a multiple of them, got 8"),
        ((0, 1, 1), "devices must be at least 1, got 0"),
        ((8, 1, 0), "expert_parallel must be at least 1, got 0"),
    ],
)
def test_layouts_that_do_not_divide(arguments, message):
    with pytest.raises(ValueError, match=message):
        Layout(*arguments)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
def test_no_other_cut_is_more_even(costs, data):
    parts = data.draw(st.integers(1, len(costs)))

    def sums(ends):
        return [sum(costs[a:b]) for a, b in zip((0, *ends), (*ends, len(costs)), strict=True)]

    best = min((max(s), sum(x * x for x in s)) for s in map(sums, combinations(range(1, len(costs)), parts - 1)))
    found = [sum(costs[i] for i in layers) for layers in evenly_cut(costs, parts)]
    assert (max(found), sum(x * x for x in found)) == best
    assert [i for layers in evenly_cut(costs, parts) for i in layers] == list(range(len(costs)))


@pytest.mark.parametrize("name", DECODERS)
def test_stages_hold_the_whole_model(name):
    a = DECODERS[name]
    total = total_parameters(a).with_embedding
    for stages in (1, 2, 5):
        found = stages_of(a, stages, 16)
        twice = a.tied_embeddings * (stages > 1) * a.d_model * a.vocab_size
        assert sum(stage.dense.total + stage.experts.total for stage in found) == total + twice
        assert sum(stage.sparse_layers for stage in found) == a.num_sparse_layers
        flops = [flops_per_token(a, length).forward for length in range(1, 17)]
        assert sum(stage.forward_flops for stage in found) == pytest.approx(sum(flops) / 16)


def test_what_stages_refuse():
    with pytest.raises(ValueError, match="stages must be between 1 and the 32 layers of the model, got 33"):
        stages_of(published("mixtral-8x7b").architecture, 33, 1)
    with pytest.raises(ValueError, match="without an encoder, got one of 12 layers"):
        stages_of(published("switch-base-128").architecture, 1, 1)
    with pytest.raises(ValueError, match="context must be at least 1 token, got 0"):
        stages_of(published("dbrx").architecture, 1, 0)


def timeline_1f1b(stages, micro_batches, forward, backward):
    """When the last stage-0 backward ends, by playing the schedule: each stage alternates after its warm-up."""
    order = []
    for p in range(stages):
        warm = min(stages - p, micro_batches)
        tasks = [("f", i) for i in range(warm)]
        for i in range(micro_batches):
            tasks.append(("b", i))
            if warm + i < micro_batches:
                tasks.append(("f", warm + i))
        order.append(tasks)
    done, at, clock = {}, [0] * stages, [0.0] * stages
    while any(at[p] < len(order[p]) for p in range(stages)):
        for p in range(stages):
            if at[p] == len(order[p]):
                continue
            kind, i = order[p][at[p]]
            needs = (kind, i, p - 1 if kind == "f" else p + 1)
            if (kind == "f" and p > 0) or (kind == "b" and p < stages - 1):
                if needs not in done:
                    continue
                clock[p] = max(clock[p], done[needs])
            clock[p] += forward if kind == "f" else backward
            done[kind, i, p] = clock[p]
            at[p] += 1
    return max(clock)


@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 3), (2, 2), (4, 4), (4, 9), (3, 8)])
def test_the_bubble_of_1f1b_is_that_of_a_simulation(stages, micro_batches):
    bubble = Pipeline("1f1b", stages, micro_batches).bubble(1.0, 2.0, 1.0, 3.0)
    assert timeline_1f1b(stages, micro_batches, 1.0, 2.0) == pytest.approx(micro_batches * 3 + bubble)


def test_bubbles_of_deepseek_v3_table_2():
    """In units of F = W, with B = 2 F and F&B = 3 F."""
    bubbles = [Pipeline(name, 16, 120).bubble(1.0, 2.0, 1.0, 3.0) for name in ("1f1b", "zb1p", "dualpipe")]
    assert bubbles == [45, 15, 14]


def test_micro_batches_in_flight():
    assert [Pipeline("1f1b", 4, 9).in_flight(stage) for stage in range(4)] == [4, 3, 2, 1]
    assert [Pipeline("zb1p", 4, 2).in_flight(stage) for stage in range(4)] == [2, 2, 2, 1]
    assert [Pipeline("dualpipe", 4, 8).in_flight(stage) for stage in range(4)] == [5, 5, 5, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gpipe", 2, 2), "schedule must be one of 1f1b, zb1p, dualpipe, got 'gpipe'"),
        (("dualpipe", 3, 2), "stages must be even for dualpipe, got 3"),
        (("dualpipe", 4, 7), "micro_batches must be even for dualpipe, got 7"),
        (("1f1b", 4, 0), "micro_batches must be at least 1, got 0"),
    ],
)
def test_schedules_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pipeline(*arguments)
