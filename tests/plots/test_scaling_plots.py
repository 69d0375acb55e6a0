import io

import numpy as np
import pytest

from moe_numpy.plots.scaling import loss_laws


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
