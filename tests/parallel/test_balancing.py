import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unchecked_shapes import unchecked_shapes

from benchmarks.placement import eplb, largest
from moe_numpy.parallel import Move, Placement, balance, lower_bound, matched, moves, rebalance
from moe_numpy.parallel.packing import packed, replica_counts
from moe_numpy.parallel.placement_search import Balance

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(0, 3))  # E, R, places beyond those needed
SEEDS = st.integers(0, 10**6)


def drawn(sizes, seed):
    """A skewed load, the number of ranks, and places."""
    num_experts, num_ranks, more = sizes
    rng = np.random.default_rng(seed)
    kinds = (
        rng.dirichlet(np.full(num_experts, 0.3)),
        rng.lognormal(0, 1, num_experts),
        rng.integers(0, 3, num_experts),
    )
    return kinds[rng.integers(3)] * rng.choice([1, 1e-6, 1e6]), num_ranks, -(-num_experts // num_ranks) + more


def at_random(rng, num_experts, num_ranks, places):
    """A placement of any quality."""
    counts = 1 + rng.multinomial(
        rng.integers(num_ranks * places - num_experts + 1), np.full(num_experts, 1 / num_experts)
    )
    held = packed(rng.random(num_experts), np.minimum(counts, num_ranks), num_ranks, places)
    return Placement.from_matrix(held > 0)


def best_possible(load, num_ranks, places):
    """The smallest largest load of all placements."""
    sets = [s for k in range(places + 1) for s in itertools.combinations(range(len(load)), k)]
    found = np.inf
    for experts in itertools.combinations_with_replacement(sets, num_ranks):
        counts = np.bincount([e for held in experts for e in held], minlength=len(load))
        if counts.all():
            found = min(found, max(sum(load[e] / counts[e] for e in held) for held in experts))
    return found


def load_of(placement, load):
    return placement.rank_load(load).max()


def apart(ranks):
    return all(len(set(held)) == len(held) for held in ranks)


def after(present, moved, new):
    """Copy what is moved, from ranks that have it; then each rank drops what it no longer needs."""
    held = [set(of) for of in present.experts]
    for move in moved:
        assert move.expert in present.experts[move.source]
        assert move.expert not in held[move.target]
        held[move.target].add(move.expert)
    return tuple(tuple(sorted(of & set(needed))) for of, needed in zip(held, new.experts, strict=True))


@settings(deadline=None, max_examples=60)
@given(SIZES, SEEDS)
def test_a_balance_is_within_its_bounds(sizes, seed):
    load, num_ranks, places = drawn(sizes, seed)
    with unchecked_shapes():
        placement = balance(load, num_ranks, places, rounds=5)
    assert placement.num_ranks == num_ranks
    assert max(map(len, placement.experts)) <= places
    theirs = eplb(load, num_ranks, places)
    reached, mean = load_of(placement, load), load.sum() / num_ranks
    assert reached >= lower_bound(load, num_ranks, places) * (1 - 1e-9)
    assert lower_bound(load, num_ranks, places) >= max(mean, (load / min(num_ranks, num_ranks * places)).max()) * (
        1 - 1e-9
    )
    if apart(theirs):
        assert reached <= largest(load, theirs) * (1 + 1e-9)


@settings(deadline=None, max_examples=60)
@given(SIZES, SEEDS)
def test_the_packing_with_replicas_together_is_eplbs(sizes, seed):
    load, num_ranks, places = drawn(sizes, seed)
    slots = num_ranks * places
    counts = replica_counts(load, slots, slots)
    loads = packed(load, counts, num_ranks, places, apart=False) @ (load / counts)
    assert loads.max() == pytest.approx(largest(load, eplb(load, num_ranks, places)))


@settings(deadline=None, max_examples=60)
@given(SIZES, SEEDS)
def test_packing_keeps_replicas_apart(sizes, seed):
    _, num_ranks, places = drawn(sizes, seed)
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, num_ranks + 1, sizes[0])
    while counts.sum() > num_ranks * places:
        counts[counts.argmax()] -= 1
    held = packed(rng.random(sizes[0]), counts, num_ranks, places)
    assert held.max() == 1
    assert held.sum(axis=0).tolist() == counts.tolist()
    assert held.sum(axis=1).max() <= places


@settings(deadline=None, max_examples=40)
@given(SIZES, SEEDS)
@example((2, 5, 3), 521)  # more places than experts: copies that share a rank fill them
def test_rebalancing_is_as_good_and_needs_no_more_copies(sizes, seed):
    load, num_ranks, places = drawn(sizes, seed)
    present = at_random(np.random.default_rng(seed), len(load), num_ranks, places)
    with unchecked_shapes():
        fresh = balance(load, num_ranks, places, rounds=5)
        new = rebalance(load, present, places, tolerance=0.05, rounds=5)
        assert rebalance(load, new, places, tolerance=0.05, rounds=5) == new
    assert max(map(len, new.experts)) <= places
    assert load_of(new, load) <= load_of(fresh, load) * (1.05 + 1e-9)
    assert len(moves(present, new)) <= len(moves(present, matched(fresh, present)))
    theirs = largest(load, eplb(load, num_ranks, places))
    assert load_of(new, load) <= max(theirs, load_of(fresh, load)) * (1 + 1e-9)


@settings(deadline=None, max_examples=60)
@given(SIZES, SEEDS)
def test_the_moves_lead_from_one_placement_to_the_other(sizes, seed):
    num_experts, num_ranks, more = sizes
    rng, places = np.random.default_rng(seed), -(-num_experts // num_ranks) + more
    present, new = (at_random(rng, num_experts, num_ranks, places) for _ in range(2))
    assert after(present, moves(present, new), new) == new.experts
    assert moves(new, new) == ()


@settings(deadline=None, max_examples=40)
@given(SIZES, SEEDS)
def test_no_other_ranks_for_the_sets_need_fewer_copies(sizes, seed):
    num_experts, num_ranks, more = sizes
    rng, places = np.random.default_rng(seed), -(-num_experts // num_ranks) + more
    present, new = (at_random(rng, num_experts, num_ranks, places) for _ in range(2))
    sets, holders = [set(held) for held in new.experts], [set(held) for held in present.experts]
    fewest = min(
        sum(len(held - holder) for held, holder in zip(order, holders, strict=True))
        for order in itertools.permutations(sets)
    )
    found = matched(new, present)
    assert sorted(found.experts) == sorted(new.experts)
    assert len(moves(present, found)) == fewest


@pytest.mark.parametrize(("num_experts", "num_ranks", "places"), [(4, 2, 3), (5, 3, 2), (4, 3, 3), (6, 2, 4)])
def test_near_the_best_of_all_placements(num_experts, num_ranks, places):
    excess = []
    for seed in range(5):
        load = np.random.default_rng(seed).lognormal(0, 1, num_experts)
        with unchecked_shapes():
            found = load_of(balance(load, num_ranks, places), load)
        excess.append(found / best_possible(load, num_ranks, places) - 1)
    assert min(excess) >= -1e-9
    assert max(excess) <= 0.02
    assert np.median(excess) <= 1e-3


@settings(deadline=None, max_examples=60)
@given(SIZES, SEEDS)
def test_a_step_has_the_load_that_it_promises(sizes, seed):
    load, num_ranks, places = drawn(sizes, seed)
    present = at_random(np.random.default_rng(seed), len(load), num_ranks, places)
    now = Balance(present.held, load, places)
    for promised, changes in (*now.exchanges(), *now.replacements()):
        new = now.after(changes)
        touched = new.loads != now.loads
        assert new.loads[touched].max(initial=0) <= promised * (1 + 1e-9)
        if np.isfinite(promised):
            assert new.counts.min() >= 1
            assert new.held.sum(axis=1).max() <= places


def test_two_heavy_experts_get_replicas_on_two_ranks():
    placement = balance(np.array([8, 8, 1, 1, 1, 1]), 4, 2)
    assert placement.rank_load(np.array([8, 8, 1, 1, 1, 1])).tolist() == [5, 5, 5, 5]
    assert placement.counts.tolist() == [2, 2, 1, 1, 1, 1]


def test_more_ranks_than_experts():
    assert balance(np.array([3.0, 1]), 5, 1).counts.sum() <= 5
    assert load_of(balance(np.array([3.0, 1]), 4, 1), np.array([3.0, 1])) == 1


def test_no_load_at_all():
    assert balance(np.zeros(3), 2, 2).num_experts == 3
    assert rebalance(np.zeros(3), Placement.even(3, 2), 2) == Placement.even(3, 2)


def test_a_balance_that_no_other_beats_stays():
    load = np.array([10.0, 10.05, 10, 10])
    for num_ranks, places in ((4, 1), (2, 2)):
        present = Placement.even(4, num_ranks)
        assert rebalance(load, present, places, tolerance=0) == present


def test_a_present_placement_without_the_places():
    present = Placement(((0, 1, 2), (0, 1, 2)), 3)
    new = rebalance(np.array([1.0, 2, 3]), present, 2)
    assert max(map(len, new.experts)) <= 2
    assert moves(present, new) == ()


def test_the_source_is_who_has_sent_least_and_then_the_nearest():
    present = Placement(((0, 1), (), (), (0,)), 2)
    new = Placement(((0, 1), (0, 1), (0,), (0,)), 2)
    assert moves(present, new) == (Move(0, 3, 1), Move(0, 3, 2), Move(1, 0, 1))


@pytest.mark.parametrize(
    ("load", "num_ranks", "places", "message"),
    [
        ([1, -1], 2, 1, "load must be finite and not negative, got -1.0 for expert 1"),
        ([np.nan, 1], 2, 1, "load must be finite and not negative, got nan for expert 0"),
        ([[1, 2]], 2, 1, r"load must have one entry for each expert, got shape \(1, 2\)"),
        ([], 2, 1, r"load must have one entry for each expert, got shape \(0,\)"),
        ([1, 2], 0, 1, "num_ranks must be at least 1, got 0"),
        ([1, 2], 2, 0, "places must be at least 1, got 0"),
        ([1, 2, 3], 2, 1, "2 ranks with 1 places each have no room for 3 experts"),
    ],
)
@pytest.mark.parametrize("function", [balance, lower_bound])
def test_what_cannot_be_placed(function, load, num_ranks, places, message):
    with unchecked_shapes(), pytest.raises(ValueError, match=message):
        function(np.array(load), num_ranks, places)


def test_what_cannot_be_rebalanced():
    present = Placement.even(4, 2)
    with pytest.raises(ValueError, match="load must have one entry for each of 4 experts, got 3"):
        rebalance(np.ones(3), present, 2)
    with pytest.raises(ValueError, match=r"tolerance must be at least 0, got -0\.1"):
        rebalance(np.ones(4), present, 2, tolerance=-0.1)


@pytest.mark.parametrize("function", [moves, matched])
def test_placements_of_different_sizes(function):
    with pytest.raises(ValueError, match="num_ranks must be the same in both placements, got 2 and 3"):
        function(*in_order(function, Placement.even(4, 2), Placement.even(4, 3)))
    with pytest.raises(ValueError, match="num_experts must be the same in both placements, got 4 and 5"):
        function(*in_order(function, Placement.even(4, 2), Placement.even(5, 2)))


def in_order(function, present, new):
    return (present, new) if function is moves else (new, present)
