import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.parallel import Placement

REPLICAS = Placement(((0, 2), (), (1, 2), (2,)), 3)


@st.composite
def contents(draw):
    """The arguments of a placement; made in the test, since the checker of shapes draws random numbers of its own."""
    num_experts, num_ranks = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    ranks = [draw(st.sets(st.integers(0, num_ranks - 1), min_size=1)) for _ in range(num_experts)]
    held = tuple(tuple(e for e in range(num_experts) if r in ranks[e]) for r in range(num_ranks))
    return held, num_experts


def test_slots_go_rank_by_rank_and_by_ascending_expert():
    assert REPLICAS.num_ranks == 4
    assert REPLICAS.offsets.tolist() == [0, 2, 2, 4, 5]
    assert REPLICAS.slot_expert.tolist() == [0, 2, 1, 2, 2]
    assert REPLICAS.slot_rank.tolist() == [0, 0, 2, 2, 3]
    assert REPLICAS.counts.tolist() == [1, 1, 3]
    assert [REPLICAS.ranks_of(e) for e in range(3)] == [(0,), (2,), (0, 2, 3)]


def test_replicas_take_turns_by_the_token():
    expert, token = np.array([2, 2, 2, 2, 0, 1]), np.array([0, 1, 2, 3, 7, 8])
    assert REPLICAS.slot_of(expert, token).tolist() == [1, 3, 4, 1, 0, 2]
    assert REPLICAS.slot_of(expert[:0], token[:0]).tolist() == []


def test_an_expert_splits_its_load_evenly():
    assert REPLICAS.rank_load(np.array([5, 7, 6])).tolist() == [7, 0, 9, 2]


@given(contents(), st.integers(0, 10**6))
def test_the_arrays_say_what_the_tuples_say(of, seed):
    placement = Placement(*of)
    rng = np.random.default_rng(seed)
    expert = rng.integers(0, placement.num_experts, 10)
    token = rng.integers(0, 2**40, 10)
    slots = placement.slot_of(expert, token)
    for e, t, slot in zip(expert.tolist(), token.tolist(), slots.tolist(), strict=True):
        ranks = placement.ranks_of(e)
        rank = ranks[t % len(ranks)]
        assert slot == placement.offsets[rank] + placement.experts[rank].index(e)
    load = rng.random(placement.num_experts)
    each = [sum(load[e] / len(placement.ranks_of(e)) for e in held) for held in placement.experts]
    np.testing.assert_allclose(placement.rank_load(load), each)
    assert placement.rank_load(load).sum() == pytest.approx(load.sum())
    assert Placement.from_matrix(placement.held) == placement


@given(contents())
def test_json_and_back(of):
    placement = Placement(*of)
    assert Placement.from_json(json.loads(json.dumps(placement.to_json()))) == placement


@pytest.mark.parametrize(
    ("num_experts", "num_ranks", "sizes"), [(8, 4, [2, 2, 2, 2]), (8, 3, [3, 3, 2]), (2, 4, [1, 1, 0, 0]), (3, 1, [3])]
)
def test_even_shares(num_experts, num_ranks, sizes):
    placement = Placement.even(num_experts, num_ranks)
    assert [len(held) for held in placement.experts] == sizes
    assert placement.slot_expert.tolist() == list(range(num_experts))


@pytest.mark.parametrize(
    ("experts", "num_experts", "message"),
    [
        ((), 2, "experts must have one entry for each rank, got no ranks"),
        (((0,), (2,)), 4, "every expert must be on a rank; nowhere: 1, 3"),
        (((0,), (1, 1)), 2, r"experts\[1\] has expert 1 twice"),
        (((1, 0),), 2, r"experts\[0\] must ascend, got 0 after 1"),
        (((0,), (1, 2)), 2, r"experts\[1\] has 2, expected 0 to 1"),
        (((-1, 0), (1,)), 2, r"experts\[0\] has -1, expected 0 to 1"),
        (((),), 0, "num_experts must be at least 1, got 0"),
    ],
)
def test_what_is_no_placement(experts, num_experts, message):
    with pytest.raises(ValueError, match=message):
        Placement(experts, num_experts)


def test_no_ranks_to_share():
    with pytest.raises(ValueError, match="num_ranks must be at least 1, got 0"):
        Placement.even(4, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_experts": 1}, "experts"),
        ({"num_experts": 2, "experts": [[0, 1.5]]}, r"int.*experts\[0\]\[1\]"),
        ({"num_experts": 2, "experts": [[0], [0]]}, "nowhere: 1"),
    ],
)
def test_damaged_json(values, message):
    with pytest.raises(ValueError, match=message):
        Placement.from_json(values)
