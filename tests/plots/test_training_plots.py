import io

import numpy as np
import pytest

from moe_numpy.plots import Curve
from moe_numpy.plots.training import cost_ratios, learning_curves_of_seeds, losses_by_domain

LN2 = np.log(2)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def pixels(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


def runs(*ends, steps=60):
    step = np.arange(1, steps + 1)
    return [Curve(f"run {i}", step, 2 + end / step, {1: 5.0, steps: end}) for i, end in enumerate(ends)]


def test_curves_of_seeds_show_every_run_and_the_mean_in_bits():
    figure = learning_curves_of_seeds({"dense": runs(2.0, 1.8), "MoE": runs(1.9, 1.5)})
    left, right = figure.axes
    assert len(left.get_lines()) == 2 * (2 + 1)
    thick = [line for line in left.get_lines() if not line.get_label().startswith("_")]
    assert [line.get_label() for line in thick] == ["dense", "MoE"]
    thin = [line for line in left.get_lines() if line.get_label().startswith("_")]
    np.testing.assert_allclose(thick[0].get_ydata(), (thin[0].get_ydata() + thin[1].get_ydata()) / 2)
    np.testing.assert_allclose(thin[0].get_ydata()[-1] * LN2, 2 + 2.0 / 60, atol=1e-3)
    assert texts(right) == [f"{nats / LN2:.2f}" for nats in (2.0, 1.8, 1.9, 1.9, 1.5, 1.7)]
    assert [t.get_text() for t in right.get_xticklabels()] == ["seed 0", "seed 1", "mean"]
    assert pixels(figure) == 1200


def test_models_differ_in_more_than_colour():
    left, right = learning_curves_of_seeds({"dense": runs(2.0), "MoE": runs(1.9)}).axes
    thick = [line for line in left.get_lines() if not line.get_label().startswith("_")]
    assert len({line.get_linestyle() for line in thick}) == 2
    points = [line for line in right.get_lines() if line.get_linestyle() == "None"]
    assert len({line.get_marker() for line in points}) == 2


def test_curves_of_seeds_refuse_what_cannot_be_paired():
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        learning_curves_of_seeds({"dense": runs(2.0, 1.8), "MoE": runs(1.9)})
    with pytest.raises(ValueError, match="as many runs"):
        learning_curves_of_seeds({"dense": []})


def test_losses_by_domain_mark_each_run_and_the_mean():
    nats = {"dense": np.array([[2.0, 1.0], [1.0, 1.2]]), "MoE": np.array([[1.9, 0.9], [0.9, 1.1]])}
    figure = losses_by_domain(nats, ["prose", "code"])
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("prose", "code")
    assert texts(first) == [f"{1.5 / LN2:.2f}", f"{1.4 / LN2:.2f}"]
    points = [line for line in first.get_lines() if line.get_linestyle() == "None"]
    np.testing.assert_allclose(points[0].get_ydata() * LN2, [2.0, 1.0])
    assert [t.get_text() for t in first.get_xticklabels()] == ["dense", "MoE"]
    joined = [line.get_ydata() * LN2 for line in first.get_lines() if line.get_linewidth() < 1]
    np.testing.assert_allclose(joined, [[2.0, 1.9], [1.0, 0.9]])  # one line per seed
    spans = [np.ptp(axes.get_ylim()) for axes in figure.axes]
    np.testing.assert_allclose(spans[0], spans[1])
    assert first.get_ylim()[0] < 0.9 / LN2 < 2.0 / LN2 < first.get_ylim()[1]
    assert pixels(figure) == 1200


def test_cost_ratios_name_each_cost():
    figure = cost_ratios({"memory": 4.25, "active": 1.0, "time": 0.8}, title="costs")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [4.25, 1.0, 0.8]
    assert texts(axes) == ["4.25 ×", "1.00 ×", "0.80 ×"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["memory", "active", "time"]
    assert axes.get_xlim()[1] > 4.25
    assert pixels(figure) == 1200


def test_cost_ratios_of_one_cost():
    assert pixels(cost_ratios({"memory": 0.5}, title="costs")) == 1200
