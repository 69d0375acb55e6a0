import json

import numpy as np
import pytest

from moe_numpy.autodiff import substitute
from moe_numpy.instruments.load_check import load_check
from moe_numpy.moe.losses import LoadProbability

RNG = np.random.default_rng(0)
LOGITS, SIGMA = RNG.standard_normal((6, 5)), RNG.uniform(0.3, 1.5, (6, 5))


def check(k=2, **settings):
    return load_check(LOGITS, SIGMA, k, rng=np.random.default_rng(2), **settings)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_formula_agrees_with_counting(k):
    found = check(k)
    assert found.worst < 4
    assert sum(found.simulated) == pytest.approx(found.assignments) == 6 * k
    assert sum(found.expected) == pytest.approx(6 * k, abs=0.15)
    assert max(found.expected_error) < min(found.simulated_error)  # what the smooth load is good for


def test_deviations_are_in_units_of_their_standard_error():
    checks = [load_check(LOGITS, SIGMA, 2, rng=np.random.default_rng(seed), draws=200) for seed in range(40)]
    deviations = np.array([found.deviation for found in checks])
    assert 0.85 < (deviations**2).mean() ** 0.5 < 1.15


def test_thresholds_in_probability_space_are_seen():
    class InProbabilities(LoadProbability):
        def forward(self, h, sigma, noisy, *, k):
            e = np.exp(noisy)
            return super().forward(h, sigma, e / e.sum(axis=1, keepdims=True), k=k)

    with substitute(LoadProbability, InProbabilities):
        found = check()
    assert found.worst > 10
    assert abs(sum(found.expected) - found.assignments) > 0.2


def test_the_wrong_rank_is_seen():
    class OneRankOff(LoadProbability):
        def forward(self, h, sigma, noisy, *, k):
            return super().forward(h, sigma, noisy, k=k + 1)

    with substitute(LoadProbability, OneRankOff):
        assert check().worst > 20


def test_with_all_experts_chosen_nothing_deviates():
    found = check(5, draws=2)
    assert found.expected == found.simulated == (6.0,) * 5
    assert found.worst == 0


def test_as_text_and_json():
    found = check(draws=50)
    lines = str(found).splitlines()
    assert lines[0].split() == ["expert", "expected", "simulated", "deviation"]
    assert len(lines) == 7
    assert lines[-1].startswith("all, k T = 12")
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["draws"] == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LOGITS, SIGMA[:3], 2), r"sigma must have the shape \(6, 5\) of logits, got \(3, 5\)"),
        ((LOGITS, SIGMA, 0), "k must be between 1 and num_experts=5, got 0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_check(*arguments, rng=RNG)


def test_one_draw_has_no_standard_error():
    with pytest.raises(ValueError, match="draws must be at least 2, got 1"):
        check(draws=1)
