from dataclasses import replace

import numpy as np
import pytest
from by_hand import who_fits
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor, decisions
from moe_numpy.moe.capacity import DROP, ROUNDING, Capacity, KeepAssignments
from moe_numpy.moe.routing import Batch, Candidates
from moe_numpy.moe.selection import TopK

ONE = Batch(sequence_length=1)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [("floor_without_k", 15), ("round_without_k", 16), ("floor", 31), ("ceil", 32), ("multiple_of_4", 32)],
)
def test_the_public_formulas_differ(rounding, expected):
    """T = 100, E = 8, k = 2, factor 1.25: 15, 16, 31, 32 and 32 places from five formulas."""
    assert Capacity(1.25, rounding).size(100, 8, 2) == expected


def test_every_rounding_is_known_by_its_number():
    assert set(ROUNDING) == {"ceil", "floor", "floor_without_k", "round_without_k", "multiple_of_4"}
    assert Capacity(1.0, "multiple_of_4").size(100, 8, 1) == 16  # 12.5, then 13, then 16
    assert [Capacity(1.0, "round_without_k").size(T, 8, 2) for T in (12, 20)] == [2, 2]  # 1.5 and 2.5


@pytest.mark.parametrize(
    ("num_tokens", "num_experts", "top_k", "factor", "expected"),
    [
        (100, 8, 2, 1.25, 32),
        (100, 8, 1, 1.25, 16),
        (8, 8, 1, 1.0, 1),
        (100, 1, 1, 1.1, 110),  # 1.1 · 100 is a little more than 110 in binary
        (3, 8, 1, 1.0, 1),
        (0, 8, 1, 1.0, 0),
    ],
)
def test_capacity_is_the_ceiling_of_the_fair_share_times_the_factor(num_tokens, num_experts, top_k, factor, expected):
    assert Capacity(factor).size(num_tokens, num_experts, top_k) == expected


def test_floor_does_not_lose_a_place_to_rounding_errors():
    assert Capacity(0.7, "floor").size(10, 1, 1) == 7
    assert Capacity(2.3, "floor_without_k").size(100, 1, 1) == 230  # 2.3 · 100 is a little less than 230 in binary


def test_evaluation_has_a_factor_of_its_own():
    own = Capacity(1.0, eval_factor=2.0)
    assert (own.size(100, 4, 1), own.size(100, 4, 1, training=False)) == (25, 50)
    assert Capacity(1.0).size(100, 4, 1, training=False) == 25
    everyone = Candidates(token=np.arange(4), expert=np.zeros(4, int), rank=np.zeros(4, int), by_token=True)
    for training, places in ((True, 2), (False, 4)):
        fits, size = own.admits(everyone, np.zeros((4, 2)), 1, Batch(4, training))
        assert (fits.sum(), size) == (places, places)
        fits, _ = replace(own, scope="sequence").admits(
            everyone, np.zeros((4, 2)), 1, Batch(3, training, lengths=(1, 3))
        )
        assert fits.sum() == (3 if training else 4)
    for wrong in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="eval_capacity_factor must be"):
            Capacity(1.0, eval_factor=wrong)


# Who is dropped

# Token 0 wants experts 0 then 1; token 1 wants 1 then 0; token 2 wants 1 then 0.
THREE = Candidates(
    token=np.array([0, 0, 1, 1, 2, 2]), expert=np.array([0, 1, 1, 0, 1, 0]), rank=np.array([0, 1, 0, 1, 0, 1])
)
SCORES = np.array([[0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        # Expert 1 is full with the first choices of tokens 1 and 2; expert 0 takes token 0, then token 1's second.
        ("position", [True, False, True, True, True, False]),
        # Expert 0 prefers .6 and .3 to .1; expert 1 prefers .9 and .7 to .4.
        ("probability", [True, False, True, True, True, False]),
        # Tokens 2, 1, 0 in this order: expert 0 takes token 0 first (a first choice), then token 2's second.
        ("batch_priority", [True, False, True, False, True, True]),
    ],
)
def test_drop_policies_by_hand(drop, expected):
    assert Capacity(drop=drop).fits(THREE, SCORES, 2, ONE).tolist() == expected


def test_probability_lets_a_strong_second_choice_pass_a_weak_first_one():
    candidates = TopK(2)(np.array([[0.4, 0.3, 0.3], [0.45, 0.55, 0.0]]), ONE)
    scores = np.array([[0.4, 0.3, 0.3], [0.45, 0.55, 0.0]])
    assert Capacity(drop="probability").fits(candidates, scores, 1, ONE).tolist() == [False, False, True, True]
    assert Capacity(drop="position").fits(candidates, scores, 1, ONE).tolist() == [True, False, True, False]


def test_batch_priority_with_equal_scores_is_position():
    scores = np.zeros((4, 2))
    fits = Capacity(drop="batch_priority").fits(TopK(1)(scores, ONE), scores, 2, ONE)
    assert fits.tolist() == [True, True, False, False]


@settings(deadline=None)
@given(
    drop=st.sampled_from(["position", "probability", "batch_priority"]),
    scope=st.sampled_from(["batch", "sequence", 1, 2, 3, 5]),
    sequences=st.integers(0, 3),
    length=st.integers(1, 5),
    num_experts=st.integers(1, 4),
    data=st.data(),
)
def test_fits_agrees_with_queues_formed_one_by_one(drop, scope, sequences, length, num_experts, data):
    k = data.draw(st.integers(1, num_experts))
    size = data.draw(st.integers(0, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores = rng.integers(0, 4, (sequences * length, num_experts)) / 4  # many ties
    batch = Batch(length)
    candidates = TopK(k)(scores, batch)
    capacity = Capacity(drop=drop, scope=scope)
    tokens_in_scope = {"batch": sequences * length, "sequence": length}.get(scope, scope)
    assert capacity.tokens_in_scope(sequences * length, batch) == tokens_in_scope
    expected = who_fits(candidates, scores, size, drop=drop, tokens_in_scope=tokens_in_scope)
    assert capacity.fits(candidates, scores, size, batch).tolist() == expected


@pytest.mark.parametrize("drop", ["position", "probability", "batch_priority"])
@pytest.mark.parametrize("scope", ["sequence", 6])
def test_a_scope_is_like_running_each_part_alone(drop, scope):
    scores = draw(24, 3)
    size = 3
    whole = Capacity(drop=drop, scope=scope).fits(TopK(2)(scores, ONE), scores, size, Batch(6))
    parts = [Capacity(drop=drop).fits(TopK(2)(part, ONE), part, size, Batch(6)) for part in scores.reshape(4, 6, 3)]
    assert whole.tolist() == np.concatenate(parts).tolist()
    alone = Capacity(drop=drop).fits(TopK(2)(scores, ONE), scores, size, Batch(6))
    assert alone.tolist() != whole.tolist()


def test_random_dropping_fills_every_place_and_gives_everyone_the_same_chance():
    scores = np.zeros((6, 2))
    candidates = TopK(1)(scores, ONE)
    rng = np.random.default_rng(0)
    kept = sum(
        Capacity(drop="random").fits(candidates, scores, 2, Batch(6, training=True, rng=rng)) * 1 for _ in range(3000)
    )
    assert kept.sum() == 2 * 3000
    np.testing.assert_allclose(kept / 3000, 1 / 3, atol=0.03)
    assert Capacity(drop="random").fits(candidates, scores, 2, ONE).tolist() == [True, True] + [False] * 4


def test_random_dropping_needs_a_generator_while_training():
    with pytest.raises(ValueError, match=r"Capacity\(.*drop='random'.*\) needs rng while training"):
        Capacity(drop="random").fits(THREE, SCORES, 1, Batch(3, training=True))


@pytest.mark.parametrize("drop", DROP)
def test_no_place_at_all_drops_everything_and_an_empty_batch_nothing(drop):
    rng = np.random.default_rng(0)
    for training in (False, True):
        batch = Batch(1, training, rng)
        assert Capacity(drop=drop).fits(THREE, SCORES, 0, batch).tolist() == [False] * 6
        assert Capacity(drop=drop).fits(THREE, SCORES, 3, batch).tolist() == [True] * 6
        empty = np.zeros((0, 2))
        assert Capacity(drop=drop).fits(TopK(1)(empty, ONE), empty, 0, Batch(0, training, rng)).tolist() == []


def test_the_drop_set_is_recorded_as_a_decision():
    scores = np.array([[1.0, 0.0], [1.0, 0.0]])
    with decisions.recording() as recorded:
        Capacity().fits(TopK(1)(scores, ONE), scores, 1, ONE)
    assert recorded[-1].what == "dropped assignments"
    assert recorded[-1].chosen.tolist() == [True, False]
    assert recorded[-1].explain(1) == "token 1, expert 0: place 1 of 1"


def test_a_dropped_gate_weight_gets_a_zero_gradient():
    w = Tensor(np.array([0.1, 0.2, 0.3]), requires_grad=True)
    kept = KeepAssignments.apply(w, np.array([2, 0]))
    assert kept.data.tolist() == [0.3, 0.1]
    kept.backward(np.array([5.0, 7.0]))
    assert w.grad.tolist() == [7, 0, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 0.0}, "capacity_factor must be positive, got 0.0"),
        ({"factor": -1.0}, "capacity_factor must be positive, got -1.0"),
        ({"factor": float("nan")}, "capacity_factor must be positive, got nan"),
        ({"rounding": "up"}, "rounding must be one of ceil, floor, floor_without_k, .*, got 'up'"),
        ({"drop": "worst"}, "drop must be one of position, probability, batch_priority, random, got 'worst'"),
        ({"scope": "group"}, "scope must be batch, rank, sequence or a positive number of tokens, got 'group'"),
        ({"scope": 0}, "scope must be batch, rank, sequence or a positive number of tokens, got 0"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Capacity(**settings)


@pytest.mark.parametrize("factor", [float("inf"), 1e308])
def test_a_factor_whose_capacity_is_no_number_is_refused(factor):
    with pytest.raises(ValueError, match="capacity_factor must be at most 1e9, got"):
        Capacity(factor)


def test_a_random_order_is_drawn_for_each_scope_by_itself():
    token, expert = np.repeat(np.arange(12), 2), np.tile([0, 1], 12)
    many, scores = Candidates(token, expert, np.tile([0, 1], 12), by_token=True), draw(12, 2)

    def admitted(candidates, num_tokens, rng, **batch):
        capacity = Capacity(0.5, drop="random", scope="sequence")
        return capacity.admits(candidates, scores[:num_tokens], 2, Batch(training=True, rng=rng, **batch))[0]

    rng = np.random.default_rng(3)
    alone = [
        admitted(Candidates(token[:8], expert[:8], many.rank[:8], by_token=True), 4, rng, sequence_length=4)
        for _ in range(3)
    ]
    np.testing.assert_array_equal(
        admitted(many, 12, np.random.default_rng(3), sequence_length=4), np.concatenate(alone)
    )
    assert len({fits.tobytes() for fits in alone}) > 1
    rng = np.random.default_rng(3)
    uneven = admitted(many, 12, rng, sequence_length=6, lengths=(4, 6, 2))
    np.testing.assert_array_equal(uneven[:8], alone[0])


def test_a_random_order_of_the_whole_batch_is_one_permutation():
    many = Candidates(np.arange(20), np.zeros(20, int), np.zeros(20, int), by_token=True)
    batch = Batch(5, training=True, rng=np.random.default_rng(1))
    fits = Capacity(1.0, drop="random").fits(many, np.zeros((20, 2)), 7, batch)
    assert set(np.flatnonzero(fits)) == set(np.random.default_rng(1).random(20).argsort()[:7])
