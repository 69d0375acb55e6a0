import io

import numpy as np
import pytest

from moe_numpy import plots


@pytest.mark.parametrize(("slot", "unit"), [(2e5, "KB"), (1e6, "MB"), (1e9, "GB")])
def test_hits_over_budget_has_a_line_per_policy(slot, unit):
    budget = (np.array([1, 2, 4, 8]) * slot).astype(np.int64)
    rates = {
        name: np.linspace(0, top, 4) for name, top in (("lru", 0.5), ("lfu", 0.6), ("next-layer", 0.7), ("best", 1))
    }
    figure = plots.hits_over_budget(budget, rates)
    (axes,) = figure.axes
    assert axes.get_xlabel().endswith(unit)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(rates)
    np.testing.assert_allclose(axes.get_lines()[1].get_ydata(), 100 * rates["lfu"])
    assert len({line.get_marker() for line in axes.get_lines()}) == 4
    figure.savefig(io.BytesIO(), format="png")
