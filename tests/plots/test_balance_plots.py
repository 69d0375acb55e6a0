import numpy as np
import pytest

from moe_numpy.plots.balance import Runs, Sweep, balance_loss_lines, collapse_curves, cost_of_balance, load_maps


def loads(steps=40, num_experts=4):
    return np.tile([0.5, 0.25, 0.25, 0.0], (steps, 1))[:, :num_experts]


def width(figure):
    figure.draw_without_rendering()
    return figure.get_figwidth() * figure.dpi


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_load_maps_are_relative_to_the_fair_share_on_a_logarithmic_scale():
    figure = load_maps({"a": loads(), "b": loads()}, title="who", columns=2)
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (4, 40)  # experts are rows
    np.testing.assert_allclose(image[:3, 20], [1, 0, 0], atol=1e-12)  # twice the fair share, fair, fair
    assert image[3, 20] < -3  # an empty expert is at the end of the scale, and finite
    assert np.isfinite(image).all()
    assert figure.axes[0].images[0].get_clim() == (-3, 3)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["a", "b"]
    assert figure.get_suptitle() == "who"
    assert width(figure) == 1200


def test_load_maps_name_the_axes_only_at_the_edges():
    figure = load_maps({name: loads() for name in "abcd"}, title="", columns=3)
    assert [axes.get_ylabel() for axes in figure.axes[:4]] == ["expert", "", "", "expert"]
    assert [axes.get_xlabel() for axes in figure.axes[:4]] == ["", "step", "step", "step"]


def test_collapse_curves_have_a_line_for_each_run_and_one_for_the_mean():
    effective, loss = np.array([[8.0] * 40, [4.0] * 40]), np.array([[1.0] * 40, [3.0] * 40])
    figure = collapse_curves([Runs("first", effective, loss), Runs("second", effective / 2, loss)], num_experts=8)
    left, right = figure.axes
    assert len(left.get_lines()) == 2 * 3 + 1  # and the number of experts
    mean = [line for line in left.get_lines() if line.get_label() in ("first", "second")]
    assert [line.get_ydata()[5] for line in mean] == pytest.approx([6, 3])
    assert len({line.get_marker() for line in mean}) == 2
    assert labels(right) == ["first", "second"]
    assert right.get_yscale() == "log"
    assert width(figure) == 1200


def test_balance_loss_lines_mark_the_point_with_its_value():
    p = np.linspace(0, 1, 11)
    figure = balance_loss_lines(p, {"rising": 1 + p, "flat": 1 + 0 * p}, (0.2, 0.92163))
    (axes,) = figure.axes
    assert labels(axes) == ["rising", "flat"]
    assert axes.texts[0].get_text() == "0.922, below 1"
    star = next(line for line in axes.get_lines() if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (0.2, 0.92163)
    assert width(figure) == 1200


def test_cost_of_balance_shows_means_over_seeds_and_every_seed():
    sweep = Sweep("equal", np.array([[2.0, 8.0], [4.0, 8.0]]), np.array([[0.3, 0.1], [0.5, 0.1]]))
    figure = cost_of_balance([0, 0.1], [sweep], num_experts=8)
    left, right = figure.axes
    for axes, mean, seeds in ((left, [3, 8], [2, 4]), (right, [0.4, 0.1], [0.3, 0.5])):
        (line,) = (line for line in axes.get_lines() if line.get_label() == "equal")
        np.testing.assert_allclose(line.get_ydata(), mean)
        dots = [line.get_ydata()[0] for line in axes.get_lines() if line.get_marker() == "."]
        assert dots == seeds
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0", "0.1"]
    assert width(figure) == 1200
