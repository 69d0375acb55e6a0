import itertools

import numpy as np
import pytest
from by_hand import softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import decisions
from moe_numpy.moe.assignment import BalancedAssignment, Sinkhorn, sinkhorn
from moe_numpy.moe.routing import Batch
from moe_numpy.moe.selection import (
    Dense,
    ExpertChoice,
    GivenTable,
    GroupLimited,
    Hash,
    RandomSecond,
    Threshold,
    TopK,
)

ONE = Batch(sequence_length=1)


def training(sequence_length=1, seed=0):
    return Batch(sequence_length, training=True, rng=np.random.default_rng(seed))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def pairs(candidates):
    return list(zip(candidates.token.tolist(), candidates.expert.tolist(), strict=True))


# Top-k


def test_candidates_are_listed_token_by_token_best_first_with_ties_to_the_lowest_index():
    candidates = TopK(2)(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.5]]), ONE)
    assert candidates.token.tolist() == [0, 0, 1, 1]
    assert candidates.expert.tolist() == [1, 2, 0, 1]
    assert candidates.rank.tolist() == [0, 1, 0, 1]


def test_the_recorded_decision_names_the_closest_ranks():
    with decisions.recording() as recorded:
        TopK(2)(np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.3 - 3e-7]]), ONE)
    (decision,) = recorded
    assert decision.what == "top-k set"
    assert decision.explain(0) == "token 0: experts ranked 2 and 3 differ by 1e-01"
    assert decision.explain(1) == "token 1: experts ranked 2 and 3 differ by 3e-07"


def test_choosing_every_expert_leaves_only_the_order_to_decide():
    with decisions.recording() as recorded:
        TopK(2)(np.array([[0.7, 0.3]]), ONE)
        TopK(1)(np.array([[0.7]]), ONE)
    assert recorded[0].explain(0) == "token 0: experts ranked 1 and 2 differ by 4e-01"
    assert recorded[1].explain(0) == "token 0: only one of the experts to choose"


# GShard's random second expert


def test_the_second_expert_is_kept_with_probability_min_1_2_g2():
    p = np.array([[0.9, 0.1, 0.0], [0.6, 0.2, 0.2], [0.5, 0.5, 0.0]])
    n = 20_000
    candidates = RandomSecond()(np.repeat(p, n, axis=0), training())
    firsts = candidates.rank == 0
    seconds = np.bincount(candidates.token[~firsts & candidates.sent] // n, minlength=3) / n
    np.testing.assert_allclose(seconds, [0.2, 0.5, 1], atol=0.01)
    assert candidates.sent[firsts].all()
    np.testing.assert_array_equal(candidates.token[firsts], np.arange(3 * n))
    np.testing.assert_array_equal(candidates.expert[firsts], 0)
    assert set(candidates.expert[~firsts].tolist()) == {1}


def test_the_threshold_of_the_second_expert():
    p = np.repeat([[0.9, 0.1], [0.75, 0.25]], 20_000, axis=0)
    kept = RandomSecond(0.2)(p, training()).sent.reshape(2, 20_000, 2)[:, :, 1].mean(axis=1)
    np.testing.assert_allclose(kept, [0.5, 1], atol=0.01)
    with pytest.raises(ValueError, match="threshold must be positive, got 0"):
        RandomSecond(0)


def test_the_second_expert_is_always_kept_in_evaluation():
    scores = draw(5, 3)
    assert pairs(RandomSecond()(scores, ONE)) == pairs(TopK(2)(scores, ONE))


def test_the_coin_is_a_recorded_decision():
    with decisions.recording() as recorded:
        RandomSecond()(np.array([[0.9, 0.1]]), training())
    assert recorded[-1].what == "second choices kept"
    assert recorded[-1].explain(0) == "token 0: g₂ / threshold is 0.2"


# Groups


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(2, 3), st.data())
def test_group_limited_is_top_k_of_the_experts_of_the_best_groups(num_groups, size, data):
    top_groups = data.draw(st.integers(1, num_groups))
    k = data.draw(st.integers(1, top_groups * size))
    kind = data.draw(st.sampled_from(["max", "top2"]))
    scores = draw(4, num_groups * size, seed=data.draw(st.integers(0, 1000)))
    scores -= data.draw(st.sampled_from([0, 5]))  # negative, as a bias can make them
    chosen = GroupLimited(k, num_groups, top_groups, kind)(scores, ONE).expert.reshape(4, k)
    for row, experts in zip(scores, chosen, strict=True):
        groups = [sorted(row[g * size : (g + 1) * size])[::-1] for g in range(num_groups)]
        value = [group[0] if kind == "max" else group[0] + group[1] for group in groups]
        best = sorted(range(num_groups), key=lambda g, value=value: -value[g])[:top_groups]
        allowed = [e for e in range(len(row)) if e // size in best]
        assert experts.tolist() == sorted(allowed, key=lambda e, row=row: -row[e])[:k]


def test_the_two_group_scores_can_disagree():
    scores = np.array([[9.0, 0.0, 6.0, 5.0]])
    assert GroupLimited(1, 2, 1, "max")(scores, ONE).expert.tolist() == [0]
    assert GroupLimited(1, 2, 1, "top2")(scores, ONE).expert.tolist() == [2]


def test_group_decisions_are_recorded_before_those_of_experts():
    with decisions.recording() as recorded:
        GroupLimited(1, 2, 1, "max")(np.array([[9.0, 0.0, 6.0, 5.0]]), ONE)
    assert [decision.what for decision in recorded] == ["top groups", "top-k set"]
    assert recorded[0].explain(0) == "token 0: groups ranked 1 and 2 differ by 3e+00"


# Dense and threshold


def test_dense_takes_all_pairs():
    assert pairs(Dense()(np.zeros((2, 3)), ONE)) == list(itertools.product(range(2), range(3)))


def test_threshold_takes_what_is_above_it_and_nothing_that_equals_it():
    scores = np.array([[0.0, 2.0, 1.0], [-1.0, 0.0, 0.0], [3.0, 4.0, 5.0]])
    assert pairs(Threshold()(scores, ONE)) == [(0, 1), (0, 2), (2, 0), (2, 1), (2, 2)]
    assert pairs(Threshold(2.5)(scores, ONE)) == [(2, 0), (2, 1), (2, 2)]
    with decisions.recording() as recorded:
        Threshold(1.5)(scores, ONE)
    assert recorded[0].explain(1) == "token 0, expert 1: 5e-01 above"
    assert recorded[0].explain(3) == "token 1, expert 0: -2e+00 above"


# Expert choice


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.data())
def test_expert_choice_takes_the_best_tokens_of_each_sequence_for_every_expert(sequences, length, num_experts, data):
    factor = data.draw(st.floats(0.1, num_experts))
    scope = data.draw(st.sampled_from(["sequence", "batch"]))
    scores = draw(sequences * length, num_experts, seed=data.draw(st.integers(0, 1000)))
    selection = ExpertChoice(factor, scope)
    candidates = selection(scores, Batch(length))
    scope_length = length if scope == "sequence" else sequences * length
    capacity = min(scope_length, int(np.ceil(factor * scope_length / num_experts - 1e-9)))
    expected = set()
    for first in range(0, sequences * length, scope_length):
        for e in range(num_experts):
            ranked = sorted(range(first, first + scope_length), key=lambda t, e=e: -scores[t, e])
            expected |= {(t, e) for t in ranked[:capacity]}
    assert len(candidates.token) == len(expected)
    assert set(pairs(candidates)) == expected
    assert len(set(np.bincount(candidates.expert, minlength=num_experts).tolist())) == 1  # perfectly even
    assert set(candidates.rank.tolist()) == {0}


def test_expert_choice_of_nothing_and_its_recorded_decision():
    assert pairs(ExpertChoice(1.0)(np.zeros((0, 3)), Batch(0))) == []
    with decisions.recording() as recorded:
        ExpertChoice(1.0)(np.array([[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]]), Batch(3))
    assert recorded[-1].what == "tokens taken by each expert"
    assert recorded[-1].explain(0) == "expert row 0: tokens ranked 1 and 2 differ by 5e-01"


# Hash


def test_hash_depends_on_the_id_alone_and_is_balanced_over_ids():
    ids = np.arange(256).reshape(4, 64)
    first = Hash(256, seed=1)(draw(256, 8), Batch(64, token_ids=ids))
    again = Hash(256, seed=1)(draw(256, 8, seed=5), Batch(64, token_ids=ids))
    assert first.expert.tolist() == again.expert.tolist()
    assert np.bincount(first.expert).tolist() == [32] * 8
    assert first.token.tolist() == list(range(256))
    assert Hash(256, seed=2)(draw(256, 8), Batch(64, token_ids=ids)).expert.tolist() != first.expert.tolist()
    assert first.expert.tolist() != (np.arange(256) % 8).tolist()
    same = Hash(256, seed=1)(draw(2, 8), Batch(2, token_ids=np.array([200, 200])))
    assert same.expert.tolist() == [first.expert[200]] * 2


def test_hash_needs_ids_that_it_knows():
    with pytest.raises(ValueError, match="hash routing needs the token ids; pass token_ids="):
        Hash()(draw(2, 4), ONE)
    for bad in (-1, 10):
        with pytest.raises(ValueError, match=rf"token_ids must be in \[0, vocab_size=10\), got values from .*{bad}"):
            Hash(10)(draw(2, 4), Batch(2, token_ids=np.array([3, bad])))


def test_a_table_with_several_experts_for_an_id():
    ids = np.arange(240)
    found = Hash(240, k=3)(draw(240, 5), Batch(240, token_ids=ids))
    chosen = found.expert.reshape(240, 3)
    assert found.token.tolist() == np.repeat(ids, 3).tolist()
    assert found.rank.tolist() == [0, 1, 2] * 240
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    assert np.bincount(chosen[:, 0]).tolist() == [48] * 5
    assert len({tuple(row) for row in chosen.tolist()}) > 30  # of 60 that there are, not five runs of neighbours
    assert Hash(240, k=3).per_token(5) == 3


def test_a_given_table():
    table = np.array([[2, 0], [1, 2], [0, 1]])
    found = GivenTable(table)(draw(4, 3), Batch(4, token_ids=np.array([2, 2, 0, 1])))
    assert found.expert.tolist() == [0, 1, 0, 1, 2, 0, 1, 2]
    assert GivenTable(table) == GivenTable(table.copy()) != GivenTable(table[::-1].copy())
    with pytest.raises(ValueError, match=r"token_ids must be in \[0, vocab_size=3\)"):
        GivenTable(table)(draw(1, 3), Batch(1, token_ids=np.array([3])))
    with pytest.raises(ValueError, match=r"a table must have different experts for each id, got \[2 1 2\]"):
        GivenTable(np.array([[0, 1, 2], [2, 1, 2]]))
    with pytest.raises(ValueError, match=r"a table must have experts in \[0, 2\), got values from 0 to 2"):
        GivenTable(table).validate(2)
    with pytest.raises(ValueError, match="not inside a group"):
        GivenTable(table).within_group()


# Sinkhorn and balanced assignment


@pytest.mark.parametrize("spread", [1.0, 5.0])
def test_sinkhorn_balances_rows_and_columns(spread):
    weight = sinkhorn(spread * draw(30, 6), tolerance=1e-9)
    np.testing.assert_allclose(weight.sum(axis=1), 1 / 30, rtol=1e-5)
    np.testing.assert_allclose(weight.sum(axis=0), 1 / 6, rtol=1e-12)


def test_sinkhorn_ignores_a_constant_added_to_all_logits_of_a_token():
    h = draw(5, 3).astype(np.float32)
    far = h + np.array([[0], [-200], [300], [0], [-1000]], np.float32)
    assert sinkhorn(far).dtype == np.float32
    np.testing.assert_allclose(sinkhorn(far), sinkhorn(h), rtol=1e-3)


def test_sinkhorn_stops_when_it_is_told_to():
    h = 3 * draw(20, 4)
    rough = sinkhorn(h, tolerance=0, max_iterations=1)
    assert np.abs(rough.sum(axis=1) * 20 - 1).max() > 0.1


def test_sinkhorn_spreads_tokens_that_agree_and_is_greedy_in_evaluation():
    h = 0.1 * draw(40, 4) + np.array([2.0, 0, 0, 0])
    assert np.bincount(Sinkhorn()(h, ONE).expert, minlength=4)[0] == 40
    load = np.bincount(Sinkhorn()(h, training()).expert, minlength=4)
    assert load.max() <= 20
    assert pairs(Sinkhorn()(np.zeros((0, 4)), training())) == []


def test_balanced_assignment_in_training_and_evaluation():
    scores = np.array([[3.0, 0], [2.0, 1.5], [1.0, 0], [0.5, 0]])
    with decisions.recording() as recorded:
        balanced = BalancedAssignment()(scores, training())
    assert pairs(balanced) == [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert recorded[-1].explain(1) == "token 1: assigned to expert 1"
    assert BalancedAssignment()(scores, ONE).expert.tolist() == [0, 0, 0, 0]


# All of them


@pytest.mark.parametrize(
    ("selection", "per_token"),
    [
        (TopK(3), 3),
        (RandomSecond(), 2),
        (GroupLimited(2, 2, 1), 2),
        (Dense(), 8),
        (Threshold(), 8),
        (ExpertChoice(2.0), 2.0),
        (Hash(), 1),
        (Sinkhorn(2), 2),
        (BalancedAssignment(), 1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_no_pair_occurs_twice_and_there_are_as_many_as_promised(selection, per_token, mode):
    selection.validate(8)
    assert selection.per_token(8) == per_token
    scores = softmax(draw(24, 8))
    batch = Batch(12, mode == "training", np.random.default_rng(0), np.arange(24))
    candidates = selection(scores, batch)
    assert len(set(pairs(candidates))) == len(candidates.token)
    assert len(candidates.token) <= 24 * per_token
    if not isinstance(selection, RandomSecond):
        assert len(candidates.token) == 24 * per_token


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (TopK(0), "top_k must be between 1 and num_experts=8, got 0"),
        (TopK(-1), "top_k must be between 1 and num_experts=8, got -1"),
        (TopK(9), "top_k must be between 1 and num_experts=8, got 9"),
        (Sinkhorn(9), "top_k must be between 1 and num_experts=8, got 9"),
        (GroupLimited(9, 2, 2), "top_k must be between 1 and num_experts=8, got 9"),
        (GroupLimited(2, 3, 1), "num_groups must divide num_experts=8, got 3"),
        (GroupLimited(2, 0, 1), "num_groups must divide num_experts=8, got 0"),
        (GroupLimited(2, 4, 5), "top_groups must be between 1 and num_groups=4, got 5"),
        (GroupLimited(2, 4, 0), "top_groups must be between 1 and num_groups=4, got 0"),
        (GroupLimited(3, 4, 1), "top_k must be at most the 2 experts of 1 groups, got 3"),
        (GroupLimited(2, 4, 2, "mean"), "group_score must be max or top2, got 'mean'"),
        (GroupLimited(2, 8, 2), "group_score top2 needs groups of at least 2 experts, got 8 in 8"),
        (ExpertChoice(0.0), r"capacity_factor must be in \(0, num_experts=8\], got 0.0"),
        (ExpertChoice(8.5), r"capacity_factor must be in \(0, num_experts=8\], got 8.5"),
        (ExpertChoice(1.0, "group"), "scope must be batch or sequence, got 'group'"),
        (Hash(0), "vocab_size must be at least 1, got 0"),
        (Hash(8, k=9), "top_k must be between 1 and num_experts=8, got 9"),
    ],
    ids=repr,
)
def test_settings_that_do_not_fit_are_named(selection, message):
    with pytest.raises(ValueError, match=message):
        selection.validate(8)


def test_random_second_needs_two_experts():
    with pytest.raises(ValueError, match="top_k must be between 1 and num_experts=1, got 2"):
        RandomSecond().validate(1)


def test_a_missing_generator_names_who_needs_it():
    with pytest.raises(ValueError, match=r"RandomSecond.* needs rng while training; pass rng=, or call eval\(\)"):
        RandomSecond()(draw(2, 2), Batch(2, training=True))


def test_an_expert_that_chooses_takes_at_least_one_token():
    assert len(ExpertChoice(1e-12)(softmax(draw(5, 2)), Batch(5)).token) == 2


def test_the_second_of_two_scores_that_underflow_is_kept():
    batch = Batch(200, True, np.random.default_rng(0))
    assert RandomSecond()(np.zeros((200, 4)), batch).sent.all()  # both weights are a half, and 2 g₂ is 1
