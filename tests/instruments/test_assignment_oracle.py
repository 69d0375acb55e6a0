import itertools
import json

import numpy as np
import pytest

from moe_numpy.instruments.assignment_oracle import optimal_top_k, score_assignments
from moe_numpy.moe.assignment import optimal_assignment


def skewed(num_tokens=48, num_experts=6, seed=0):
    """Logits that prefer the last experts."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num_tokens, num_experts)) + np.linspace(0, 2, num_experts)


def by_trying_all(scores, k):
    num_tokens, num_experts = scores.shape
    share = -(-k * num_tokens // num_experts)
    best = -np.inf
    for sets in itertools.product(itertools.combinations(range(num_experts), k), repeat=num_tokens):
        load = np.bincount(np.concatenate(sets), minlength=num_experts)
        if load.max() <= share:
            best = max(best, sum(scores[t, list(experts)].sum() for t, experts in enumerate(sets)))
    return best


@pytest.mark.parametrize(("shape", "k"), [((4, 3), 1), ((5, 3), 2), ((4, 4), 3), ((3, 2), 2), ((3, 4), 2)])
@pytest.mark.parametrize("offset", [0.0, -5.0, 5.0])
def test_the_optimum_is_optimal(shape, k, offset):
    scores = np.random.default_rng(1).standard_normal(shape) + offset
    chosen = optimal_top_k(scores, k)
    assert (chosen.sum(axis=1) == k).all()
    assert chosen.sum(axis=0).max() <= -(-k * shape[0] // shape[1])
    assert scores[chosen].sum() == pytest.approx(by_trying_all(scores, k))


def test_with_one_expert_it_is_the_assignment_of_base_layers():
    scores = skewed()
    experts = optimal_assignment(scores)
    assert scores[optimal_top_k(scores, 1)].sum() == pytest.approx(scores[np.arange(48), experts].sum())


@pytest.mark.parametrize("k", [1, 2])
def test_methods_rank_as_theory_predicts(k):
    table = score_assignments(skewed(), k, updates=(1, 300), bias_rate=0.02)
    optimum, greedy = table["optimum"], table["greedy"]
    assert (optimum.gain, optimum.imbalance, optimum.overflow) == (1, 1, 0)
    for row in table.rows:
        assert row.objective <= greedy.objective + 1e-9  # nobody beats those who take what they like best
        if row.overflow == 0:
            assert row.gain <= 1 + 1e-12
    assert greedy.gain > 1
    assert greedy.imbalance > 1.5
    for method in ("bias", "quantile"):
        early, late = table[f"{method}, 1 update"], table[f"{method}, 300 updates"]
        assert late.imbalance < early.imbalance
        assert late.imbalance < 1.3
        assert abs(late.gain - 1) < 0.1
    assert table["sinkhorn"].imbalance < greedy.imbalance
    assert ("base" in {row.method for row in table.rows}) == (k == 1)


def test_base_is_optimal():
    table = score_assignments(skewed(), updates=())
    assert table["base"].objective == pytest.approx(table["optimum"].objective)
    assert [row.method for row in table.rows] == ["optimum", "greedy", "sinkhorn", "base"]


def test_scores_that_are_all_equal_leave_nothing_to_gain():
    assert score_assignments(np.ones((6, 3)), updates=())["optimum"].gain == 1


def test_as_text_and_json():
    table = score_assignments(skewed(), updates=(0,))
    lines = str(table).splitlines()
    assert lines[0].startswith("T=48 E=6 k=1")
    assert lines[1].split() == ["optimum", f"{table['optimum'].objective:.4g}", "100.0", "%", "1.00", "0.0", "%"]
    assert table["bias, 0 updates"].objective == table["greedy"].objective
    assert len(json.loads(json.dumps(table.as_json(), allow_nan=False))["rows"]) == 6


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="top_k must be between 1 and num_experts=6, got 7"):
        score_assignments(skewed(), 7)
    with pytest.raises(ValueError, match=r"updates must ascend from 0 or more, got \(10, 1\)"):
        score_assignments(skewed(), updates=(10, 1))
