import io

import numpy as np
import pytest

from moe_numpy.plots.scaling import (
    active_and_total,
    laws_over_parameters,
    loss_laws,
    resampled_fits,
    stored_and_predicted,
)


def model(n, experts, granularity, tokens, loss, seed=0, rate=1.0):
    names = "parameters", "experts", "granularity", "tokens", "loss", "seed", "rate"
    return dict(zip(names, (n, experts, granularity, tokens, loss, seed, rate), strict=True))


RESULTS = [
    *(model(n, e, 1, 32, 3 - n / 1e3 - e / 10) for n in (200, 100) for e in (1, 4)),
    *(model(n, 4, g, 32, 2 - n / 1e3 - g / 10) for n in (100, 200) for g in (2, 8)),
    model(100, 4, 1, 64, 9.0), model(100, 4, 1, 32, 9.0, seed=1), model(100, 4, 1, 32, 9.0, rate=2.0),
]  # fmt: skip


def test_a_line_for_each_number_of_experts_and_each_width():
    laws = {"krajewski": {"predicted": [{"loss": 2.0, "predicted": 2.1}], "error": 0.1}, "clark": {"refused": "few"}}
    figure = loss_laws(RESULTS, laws, fixed_experts=4)
    over_n, over_g, apart = figure.axes
    dense, sparse = over_n.get_lines()
    assert [line.get_label() for line in (dense, sparse)] == ["dense", "4 experts"]
    np.testing.assert_allclose(dense.get_xdata(), [100, 200])
    np.testing.assert_allclose(sparse.get_ydata(), [2.5, 2.4])
    assert dense.get_marker() != sparse.get_marker()
    narrow, _ = over_g.get_lines()
    np.testing.assert_allclose(narrow.get_xdata(), [1, 2, 8])
    np.testing.assert_allclose(narrow.get_ydata(), [2.5, 1.7, 1.1])
    fitted, diagonal = apart.get_lines()
    assert fitted.get_label() == "Krajewski, error 0.100"
    assert fitted.get_xdata() == [2.0]
    assert fitted.get_ydata() == pytest.approx([2.1])
    np.testing.assert_allclose(diagonal.get_xdata(), diagonal.get_ydata())
    figure.savefig(io.BytesIO(), format="png")


def test_laws_that_were_not_fitted():
    figure = loss_laws(RESULTS[:1], {"krajewski": {"refused": "few"}}, fixed_experts=4)
    assert not figure.axes[2].get_lines()
    figure.savefig(io.BytesIO(), format="png")


N, LOSSES = np.array([100.0, 1000.0]), np.array([3.0, 2.0])
WIDE = np.array([50.0, 500.0, 5000.0])


def test_laws_are_lines_and_the_untrained_ground_is_grey():
    (axes,) = laws_over_parameters(N, LOSSES, WIDE, {"steep": WIDE**-0.5, "flat": WIDE**-0.1}).axes
    assert [line.get_label() for line in axes.get_lines()] == ["steep", "flat", "trained"]
    assert axes.patches[0].get_x() == N.max()
    np.testing.assert_allclose(axes.get_lines()[1].get_ydata(), WIDE**-0.1)


def test_resampled_fits_show_the_middle_and_each_pair():
    exponents = np.linspace(0.05, 0.5, 9)
    lines = WIDE ** -exponents[:, None]
    left, right = resampled_fits(N, LOSSES, WIDE, lines, exponents, 2 * exponents).axes
    np.testing.assert_allclose(left.get_lines()[0].get_ydata(), WIDE ** -exponents[4])
    np.testing.assert_allclose(right.get_lines()[0].get_xdata(), exponents)
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["0.05", "0.1", "0.2", "0.5"]


def test_both_ways_to_count_show_the_same_losses():
    counts = {"dense": N, "sparse": N}, {"dense": N, "sparse": 6 * N}
    active, stored = active_and_total(*counts, {"dense": LOSSES, "sparse": LOSSES - 0.1}).axes
    np.testing.assert_allclose(stored.get_lines()[1].get_xdata(), 6 * N)
    for axes in (active, stored):
        np.testing.assert_allclose(axes.get_lines()[1].get_ydata(), LOSSES - 0.1)


def test_what_does_not_fit_in_memory_is_grey():
    figure = stored_and_predicted({"100 active": N}, {"100 active": LOSSES}, (1000.0, 2.0), limit=400.0)
    (axes,) = figure.axes
    assert axes.patches[0].get_x() == 400.0
    assert (axes.get_lines()[1].get_xdata()[0], axes.get_lines()[1].get_ydata()[0]) == (1000.0, 2.0)
    figure.savefig(io.BytesIO(), format="png")
