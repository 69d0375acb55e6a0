"""Replayed traces: laws that hold for all of them, small ones by hand, and the store's own counts."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import EXPERTS, LAYERS, SIZE, SLOT, write_experts

from moe_numpy.inference import BEST, POLICIES, Request, SlotStore, Trace, prefill_order, simulate
from moe_numpy.inference.policies import History

UNIT = 1000


def trace_of(requests, num_layers=None, num_experts=5, **of):
    """A trace of requests (layer, experts), the step grows when the layers begin again."""
    num_layers = num_layers or 1 + max(layer for layer, _ in requests)
    step, last, made = 0, -1, []
    for layer, experts in requests:
        step += layer <= last
        last = layer
        made.append(Request(step, layer, tuple(experts), **of))
    return Trace(dict.fromkeys(range(num_layers), (UNIT,) * num_experts), UNIT, tuple(made))


@st.composite
def requests(draw, most=30):
    """What :func:`trace_of` takes. No trace is made here: the checker of types draws random numbers."""
    num_layers, num_experts = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    at_once = draw(st.integers(1, min(2, num_experts)))
    chosen = st.lists(st.integers(0, num_experts - 1), min_size=at_once, max_size=at_once, unique=True)
    drawn = draw(st.lists(chosen, min_size=1, max_size=most))
    return [(i % num_layers, e) for i, e in enumerate(drawn)], num_layers, num_experts


@given(requests(), st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_nothing_is_better_than_the_best(drawn, slots):
    trace = trace_of(*drawn)
    best = simulate(trace, BEST, slots * UNIT).total
    for policy in POLICIES:
        assert simulate(trace, policy, slots * UNIT).total.hits <= best.hits


def most_hits(trace, slots):
    """Over all choices of what leaves."""
    states = {frozenset(): 0}
    for request in trace.requests:
        wanted = frozenset((request.layer, e) for e in request.experts)
        following = {}
        for state, hits in states.items():
            rest = state - wanted
            for kept in itertools.combinations(sorted(rest), min(len(rest), slots - len(wanted))):
                after = wanted.union(kept)
                following[after] = max(following.get(after, 0), hits + len(state & wanted))
        states = following
    return max(states.values())


@given(requests(most=9), st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_the_best_is_the_best_of_all_choices(drawn, slots):
    trace = trace_of(*drawn)
    assert simulate(trace, BEST, slots * UNIT).total.hits == most_hits(trace, slots)


@given(requests())
@settings(max_examples=40, deadline=None)
def test_more_memory_never_costs_hits(drawn):
    """True of the least recently used: a larger memory holds all that a smaller one does. And of the best."""
    trace = trace_of(*drawn)
    for policy in ("lru", BEST):
        hits = [simulate(trace, policy, slots * UNIT).total.hits for slots in range(2, 17)]
        assert hits == sorted(hits)


@given(requests())
@settings(max_examples=30, deadline=None)
def test_memory_for_everything_misses_each_expert_once(drawn):
    trace = trace_of(*drawn)
    different = {(request.layer, e) for request in trace.requests for e in request.experts}
    for policy in (*POLICIES, BEST):
        counts = simulate(trace, policy, trace.num_experts * UNIT).total
        assert counts.misses == len(different)
        assert counts.bytes_read == len(different) * UNIT


@pytest.mark.parametrize("policy", POLICIES)
def test_the_store_counts_the_same(tmp_path, policy):
    _, ranges = write_experts(tmp_path)
    sizes = dict.fromkeys(LAYERS, (2 * SIZE,) * EXPERTS)

    @given(
        st.lists(st.lists(st.integers(0, EXPERTS - 1), min_size=2, max_size=2, unique=True), min_size=1, max_size=20),
        st.integers(2, 8),
    )
    @settings(max_examples=12, deadline=None)
    def check(chosen, slots):
        requests = tuple(Request(i // 2, LAYERS[i % 2], tuple(experts)) for i, experts in enumerate(chosen))
        trace = Trace(sizes, SLOT, requests)
        simulated = simulate(trace, policy, slots * SLOT)
        with SlotStore(ranges, slots * SLOT, at_once=2, policy=policy) as store:
            for request in requests:
                store.get(request.layer, request.experts)
            for layer, counts in store.counts.items():
                expected = simulated.counts[layer]
                found = counts.requests, counts.hits, counts.bytes_read
                assert found == (expected.requests, expected.hits, expected.bytes_read)

    check()


def test_each_policy_by_hand():
    """Experts 0, 0, 1, 2 of one layer in two slots: what leaves for 2 decides what 0 and 1 find."""
    once = [(0, [e]) for e in (0, 0, 1, 2, 0, 1)]
    hits = {policy: simulate(trace_of(once), policy, 2 * UNIT).total.hits for policy in (*POLICIES, BEST)}
    assert hits == {"lru": 1, "lfu": 2, "next-layer": 1, BEST: 2}
    # One expert of each of three layers, again and again, and memory for two: what was not used longest is needed next.
    rounds = [(layer, [0]) for _ in range(5) for layer in range(3)]
    hits = {policy: simulate(trace_of(rounds), policy, 2 * UNIT).total.hits for policy in (*POLICIES, BEST)}
    assert hits == {"lru": 0, "lfu": 0, "next-layer": 6, BEST: 6}


def test_a_guess_keeps_an_expert():
    """Expert 0 of layer 1 has not been used for two turns when the last step asks for it again."""
    experts = (0, 0, 0, 1, 0, 1, 1, 0)
    for guess, hits in (((), 3), ((0,), 4), ((1,), 3)):
        last = Request(3, 1, (0,), guess=guess)
        requests = tuple(Request(i // 2, i % 2, (e,)) for i, e in enumerate(experts[:-1]))
        trace = Trace({0: (UNIT,) * 2, 1: (UNIT,) * 2}, UNIT, (*requests, last))
        assert simulate(trace, "next-layer", 3 * UNIT).total.hits == hits
        assert simulate(trace, "lru", 3 * UNIT).total.hits == 3
    history = History(2, 2)
    history.expect(1, [1])
    history.request(1, [0])
    assert not history.expected.any()


def test_a_prompt_uses_what_is_there_before_others_come():
    assert prefill_order({0: 5, 1: 1, 2: 3, 3: 9, 4: 1}, present=[3, 1, 9]) == [1, 3, 4, 2, 0]
    requests = (Request(0, 0, (3, 4)), Request(1, 0, (0, 1, 2, 3, 4), rows=(1, 1, 1, 1, 1)))
    trace = Trace({0: (UNIT,) * 5}, UNIT, requests)
    assert simulate(trace, "lru", 2 * UNIT).total.hits == 2
    assert simulate(trace, BEST, 2 * UNIT).total.hits == 2
    by_number = simulate(trace, "lru", 2 * UNIT, order=lambda rows, present: sorted(rows))
    assert by_number.total.hits == 0


def test_refusals():
    trace = trace_of([(0, [0, 1])])
    with pytest.raises(ValueError, match=r"budget of 1,999 bytes is too little: the 2 experts .* take 2,000"):
        simulate(trace, "lru", 1999)
    with pytest.raises(ValueError, match="policy must be one of lru, lfu, next-layer, got 'mru'"):
        simulate(trace, "mru", 2000)
