import numpy as np
import pytest

from moe_numpy.instruments.coactivation import chosen_together, closest_pairs, expected_together


def listed(chosen):
    """Tokens and experts of rows of experts."""
    chosen = np.asarray(chosen)
    return np.repeat(np.arange(len(chosen)), chosen.shape[1]), chosen.reshape(-1)


def random_rows(rng, count, weight, k):
    """Rows of k different experts, drawn one by one with these weights, the rows of a Gumbel top-k."""
    noisy = np.log(weight) + rng.gumbel(size=(count, len(weight)))
    return np.argsort(-noisy, axis=1)[:, :k]


def test_pairs_are_counted_once_per_token_across_chunks():
    rows = [[0, 1, 2]] * 5000 + [[2, 3, 1]]
    together = chosen_together(*listed(rows), 4)
    np.testing.assert_array_equal(together, together.T)
    np.testing.assert_array_equal(np.diag(together), 0)
    assert (together[0, 1], together[1, 2], together[1, 3], together[0, 3]) == (5000, 5001, 1, 0)


def test_one_expert_per_token_makes_no_pair():
    together = chosen_together(*listed([[0], [1], [1]]), 3)
    assert not together.any()
    assert not expected_together(together).any()
    assert closest_pairs(together) == []


def test_expected_counts_have_the_loads_of_the_counted_ones():
    rng = np.random.default_rng(0)
    together = chosen_together(*listed(random_rows(rng, 3000, rng.dirichlet(np.ones(9)), 3)), 9)
    expected = expected_together(together)
    np.testing.assert_allclose(expected.sum(axis=1), together.sum(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(np.diag(expected), 0)
    e, f, g, h = 0, 3, 5, 7  # a product structure outside the diagonal
    assert expected[e, f] * expected[g, h] == pytest.approx(expected[e, h] * expected[g, f], rel=1e-6)


def test_experts_that_every_token_takes_are_together_by_their_loads_alone():
    together = chosen_together(*listed([[0, 1]] * 200 + [[0, 2]] * 200), 3)
    assert closest_pairs(together) == []
    assert expected_together(together)[0, 1] == pytest.approx(200, rel=0.02)


def test_two_experts_always_together_stand_out():
    rng = np.random.default_rng(0)
    rows = np.where(rng.random((4000, 1)) < 0.1, [[2, 5]], random_rows(rng, 4000, np.ones(6), 2) + 6)
    (pair,) = closest_pairs(chosen_together(*listed(rows), 12))
    assert pair.experts == (2, 5)
    assert pair.count == (rows[:, 0] == 2).sum()
    assert pair.lift > 5


def test_random_choices_of_unequal_loads_have_no_pairs():
    rng = np.random.default_rng(1)
    rows = random_rows(rng, 20_000, 2.0 ** -np.arange(8), 2)
    together = chosen_together(*listed(rows), 8)
    lift = together[0, 1:4] / expected_together(together)[0, 1:4]
    np.testing.assert_allclose(lift, 1, atol=0.15)
    assert [pair for pair in closest_pairs(together) if pair.lift > 1.3] == []


def test_few_tokens_are_no_evidence_and_the_list_is_limited():
    together = chosen_together(*listed([[2 * i, 2 * i + 1] for i in range(4) for _ in range(30)]), 8)
    assert [pair.experts for pair in closest_pairs(together)] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert [pair.experts for pair in closest_pairs(together, limit=1)] == [(0, 1)]
    assert closest_pairs(together, min_count=31) == []
