from dataclasses import astuple, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.accounting.scaling_laws import (
    PUBLISHED,
    FineGrained,
    Point,
    Routed,
    effective_experts,
    intervals,
    percentiles,
)

SIZES = [Point(n, 0.0, d, granularity=g) for n in (1e7, 1e8, 1e9, 1e10) for d in (1e9, 1e10, 1e11) for g in (1, 2, 8)]
EXPERTS = [Point(n, 0.0, experts=e) for n in (1.5e7, 5.5e7, 1.3e8, 3.7e8) for e in (1, 2, 4, 8, 32, 128, 512)]


def measured(law, points, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    losses = law.loss(points) * (1 + noise * rng.normal(size=len(points)))
    return [replace(p, loss=float(loss)) for p, loss in zip(points, losses, strict=True)]


@settings(deadline=None, max_examples=12)
@given(
    alpha=st.floats(0.08, 0.5), beta=st.floats(0.08, 0.5), gamma=st.floats(0.3, 1.5),
    of_n=st.floats(0.3, 2), of_d=st.floats(0.3, 2), of_g=st.floats(0.2, 0.6), c=st.floats(0.2, 2),
)  # fmt: skip
def test_a_fine_grained_law_is_recovered(alpha, beta, gamma, of_n, of_d, of_g, c):
    """The parts of the loss are given where N and D are in the middle, so that all of them can be seen."""
    n, d = 10**8.5, 1e10
    law = FineGrained(of_n * n**alpha, alpha, of_d * d**beta, beta, of_g * of_n * n**alpha, gamma, c)
    found = FineGrained.fit(measured(law, SIZES))
    np.testing.assert_allclose(found.loss(SIZES), law.loss(SIZES), atol=1e-3)
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta), abs=0.01)
    assert found.gamma == pytest.approx(gamma, rel=0.05)


@settings(deadline=None, max_examples=12)
@given(
    a=st.floats(-0.12, -0.05), b=st.floats(-0.2, -0.08), c=st.floats(0.0, 0.012),
    e_start=st.floats(1.2, 6), e_max=st.floats(60, 2000),
)  # fmt: skip
def test_a_routed_law_is_recovered(a, b, c, e_start, e_max):
    law = Routed(a, b, c, 1.1, e_start, e_max)
    found = Routed.fit(measured(law, EXPERTS))
    np.testing.assert_allclose(found.loss(EXPERTS), law.loss(EXPERTS), rtol=1e-3)
    assert (found.a, found.b, found.c) == pytest.approx((a, b, c), abs=0.01)


def test_intervals_hold_the_coefficients_of_noisy_models():
    for law, points in ((PUBLISHED["krajewski"], SIZES), (PUBLISHED["S-BASE"], EXPERTS)):
        noisy = measured(law, points, noise=2e-3, seed=1)
        drawn = list(intervals(type(law).fit, noisy, np.random.default_rng(0), 40))
        assert len(drawn) == 40
        held = percentiles(drawn)
        assert list(held) == [field.name for field in fields(law)]
        for name, (low, high) in held.items():
            assert low < high
            assert low - 0.5 * (high - low) < getattr(law, name) < high + 0.5 * (high - low), name


def test_the_interval_grows_with_the_noise():
    width = {}
    for noise in (1e-3, 1e-2):
        noisy = measured(PUBLISHED["krajewski"], SIZES, noise)
        held = percentiles(list(intervals(FineGrained.fit, noisy, np.random.default_rng(0), 20)))
        width[noise] = held["beta"][1] - held["beta"][0]
    assert width[1e-2] > 3 * width[1e-3]


def test_no_coefficient_of_a_fine_grained_law_is_negative():
    """More experts would make this loss worse, which the law cannot say."""
    points = [replace(p, loss=3 - 1 / p.granularity + 10 / p.parameters**0.2) for p in SIZES]
    found = FineGrained.fit(points)
    assert min(astuple(found)) >= 0
    assert found.g == 0


def test_effective_experts_begin_and_end_where_they_should():
    experts = np.array([1.0, 2, 16, 512, 1e9])
    found = effective_experts(experts, 1.847, 314.478)
    assert found[0] == pytest.approx(1.847)
    assert found[-1] == pytest.approx(314.478, rel=1e-6)
    assert (np.diff(found) > 0).all()


def test_published_laws_by_hand():
    law = PUBLISHED["krajewski"]
    by_hand = 0.47 + (2.1 / 4**0.58 + 18.1) / 1e9**0.115 + 30.8 / 1e10**0.147
    assert law.loss([Point(1e9, 0, 1e10, granularity=4)]) == pytest.approx([by_hand])
    of_one = 1 / (1 / 1.847)
    by_hand = 10 ** (-0.082 * 8 - 0.108 * np.log10(of_one) + 0.009 * 8 * np.log10(of_one) + 1.104)
    assert PUBLISHED["S-BASE"].loss([Point(1e8, 0, experts=1)]) == pytest.approx([by_hand])
    assert 2.5 < by_hand < 3  # nats per token of a dense model with 130 M parameters is about that


@pytest.mark.parametrize(
    ("law", "points", "message"),
    [
        (FineGrained, SIZES[:7], "at least 8 points, got 7"),
        (FineGrained, [p for p in SIZES if p.granularity != 8], "at least 3 different G, got"),
        (FineGrained, [p for p in SIZES if p.parameters < 1e9], "at least 3 different N, got"),
        (Routed, EXPERTS[:5], "at least 7 points, got 5"),
        (Routed, [p for p in EXPERTS if p.experts < 8], "at least 4 different E, got"),
    ],
)
def test_too_few_models_are_refused(law, points, message):
    with pytest.raises(ValueError, match=message):
        law.fit(measured(PUBLISHED["krajewski"], points))


def test_resamples_without_enough_variety_are_drawn_again():
    law = PUBLISHED["krajewski"]
    points = measured(
        law, [Point(n, 0.0, d, granularity=g) for n, d, g in ((1e7, 1e9, 1), (1e8, 1e10, 2), (1e9, 1e11, 4))]
    )
    assert len(list(intervals(FineGrained.fit, points * 4, np.random.default_rng(0), 5))) == 5
    with pytest.raises(ValueError, match="different N"):
        next(intervals(FineGrained.fit, points[:1] * 9, np.random.default_rng(0), 1))
