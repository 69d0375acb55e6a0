import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from moe_numpy.moe import assignment
from moe_numpy.moe.assignment import adjusted, balanced, optimal_assignment


def by_scipy(scores):
    """The best total, each expert being as many columns as it has places."""
    places = -(-scores.shape[0] // scores.shape[1])
    columns = np.repeat(scores.astype(np.float64), places, axis=1)
    return columns[linear_sum_assignment(columns, maximize=True)].sum()


def total(scores, expert):
    """The sum of the chosen scores, after a look at the shape and the loads."""
    num_tokens, num_experts = scores.shape
    assert expert.shape == (num_tokens,)
    assert np.bincount(expert, minlength=num_experts).shape == (num_experts,)
    assert np.bincount(expert, minlength=num_experts).max() <= -(-num_tokens // num_experts)
    return scores.astype(np.float64)[np.arange(num_tokens), expert].sum()


def assert_optimal(scores):
    precision = 1e-12 * (1 + float(np.abs(scores).sum()))
    assert total(scores, optimal_assignment(scores)) == pytest.approx(by_scipy(scores), rel=0, abs=precision)


KINDS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "float32": lambda rng, shape: rng.standard_normal(shape, dtype=np.float32),
    "integers": lambda rng, shape: rng.integers(-1, 2, shape),
    "large": lambda rng, shape: 1e6 * rng.standard_normal(shape),
    "equal": lambda rng, shape: np.full(shape, rng.standard_normal()),
    "one expert wanted by all": lambda rng, shape: rng.standard_normal(shape) + 100 * (np.arange(shape[1]) == 1),
    "skewed": lambda rng, shape: rng.standard_normal(shape) + 3 * rng.standard_normal(shape[1]),
    "rank one": lambda rng, shape: np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1])),
    "copies": lambda rng, shape: rng.standard_normal((5, shape[1]))[rng.integers(0, 5, shape[0])],
    "near copies": lambda rng, shape: KINDS["copies"](rng, shape) + 1e-7 * rng.standard_normal(shape),
    "equal up to rounding": lambda rng, shape: 1 + 2e-16 * rng.integers(0, 5, shape),
}


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 3), st.integers(0, 1000))
def test_it_is_the_optimum(num_tokens, num_experts, seed):
    scores = np.random.default_rng(seed).standard_normal((num_tokens, num_experts))
    places = -(-num_tokens // num_experts)
    best = max(
        sum(scores[t, e] for t, e in enumerate(choice))
        for choice in itertools.product(range(num_experts), repeat=num_tokens)
        if all(choice.count(e) <= places for e in range(num_experts))
    )
    expert = optimal_assignment(scores)
    assert np.bincount(expert, minlength=num_experts).max() <= places
    assert sum(scores[t, e] for t, e in enumerate(expert)) == pytest.approx(best)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(list(KINDS)), st.integers(0, 60), st.integers(1, 9), st.integers(0, 10**6))
def test_it_is_as_good_as_scipy(kind, num_tokens, num_experts, seed):
    assert_optimal(KINDS[kind](np.random.default_rng(seed), (num_tokens, num_experts)))


@pytest.mark.parametrize("shape", [(400, 8), (397, 8), (401, 3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_as_good_as_scipy_where_it_starts_from_a_quarter(kind, shape):
    assert_optimal(KINDS[kind](np.random.default_rng(0), shape))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(list(KINDS)), st.integers(1, 20), st.integers(2, 6), st.integers(0, 10**6))
def test_the_prices_prove_it_whatever_they_were_at_first(kind, capacity, num_experts, seed):
    rng = np.random.default_rng(seed)
    s = KINDS[kind](rng, (num_experts, capacity * num_experts)).astype(np.float64)
    first = rng.standard_normal(num_experts) * rng.choice([0, 1, 1000])
    expert, prices = balanced(s, first)
    assert (np.bincount(expert, minlength=num_experts) == capacity).all()
    gain = s - prices[:, None]
    rounding = 1e-12 * (1 + np.abs(s).max() + np.abs(first).max())
    assert (gain.max(axis=0) - gain[expert, np.arange(len(expert))]).max() <= rounding


@pytest.mark.parametrize(("num_tokens", "num_experts"), [(12, 4), (13, 4), (3, 5), (5, 1), (400, 4)])
def test_equal_scores_fill_the_experts_in_order(num_tokens, num_experts):
    places = -(-num_tokens // num_experts)
    expert = optimal_assignment(np.full((num_tokens, num_experts), 0.1))
    np.testing.assert_array_equal(expert, np.arange(num_tokens) // places)


def test_of_equal_experts_the_first_and_of_equal_tokens_the_last_moves():
    assert optimal_assignment(np.array([[1.0, 1, 0], [0, 1, 1], [1, 0, 1]])).tolist() == [0, 1, 2]
    assert optimal_assignment(np.array([[2, 1], [2, 1], [2, 1], [2, 1]])).tolist() == [0, 0, 1, 1]
    assert optimal_assignment(np.array([[2, 1, 1], [2, 1, 1], [2, 1, 1]])).tolist() == [0, 1, 2]


def test_no_more_equal_tokens_move_together_than_necessary():
    s = np.array([[2.0, 0, 1]] * 5 + [[0, 2, 1]] * 6 + [[0, 0, 1]]).T
    expert, _ = balanced(s, np.zeros(3))
    assert expert.tolist() == [0, 0, 0, 0, 2, 1, 1, 1, 1, 2, 2, 2]


def test_the_order_in_memory_and_the_type_do_not_matter():
    scores = np.random.default_rng(0).integers(0, 9, (90, 14))
    expert = optimal_assignment(scores[:, ::2])
    for same in (scores[:, ::2].copy(), np.asfortranarray(scores[:, ::2]), scores[:, ::2].astype(np.float32)):
        np.testing.assert_array_equal(optimal_assignment(same), expert)
    before = scores.copy()
    backwards = scores[::-1, ::-1]
    assert total(backwards, optimal_assignment(backwards)) == by_scipy(scores)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = np.zeros((4, 2))
    scores[1, 0] = bad
    with pytest.raises(ValueError, match="scores must be finite"):
        optimal_assignment(scores)


@pytest.mark.parametrize("prices", [[0.0, 0, 0], [9.0, -2, 1]])
def test_one_round_gives_the_last_expert_its_share_and_lowers_the_dual(prices):
    s = np.random.default_rng(0).standard_normal((3, 30))
    first = np.array(prices)
    better = adjusted(s, first)
    assert first.tolist() == prices
    assert np.bincount((s - better[:, None]).argmax(axis=0), minlength=3)[2] == 10

    def dual(p):
        return (s - p[:, None]).max(axis=0).sum() + 10 * p.sum()

    assert dual(better) < dual(first)


@pytest.mark.parametrize(("kind", "most"), [("skewed", 130), ("rank one", 500), ("near copies", 250), ("equal", 100)])
def test_few_tokens_are_left_to_move(kind, most, monkeypatch):
    paths = []
    search = assignment._cheapest_paths
    monkeypatch.setattr(assignment, "_cheapest_paths", lambda *a: paths.append(a) or search(*a))
    scores = KINDS[kind](np.random.default_rng(0), (2048, 32))
    expert = optimal_assignment(scores)
    assert np.bincount(expert).tolist() == [64] * 32
    assert len(paths) <= most
