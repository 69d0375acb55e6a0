import numpy as np
import pytest

from moe_numpy.plots.capacity import LossByFactor, drop_rates, load_against_capacity, loss_by_factor, who_finds_a_place


def width(figure):
    figure.draw_without_rendering()
    return figure.get_figwidth() * figure.dpi


def heights(axes):
    return [bars.patches for bars in axes.containers]


def test_load_against_capacity_splits_each_bar_at_the_capacity():
    figure = load_against_capacity({"even": np.array([3, 3]), "skewed": np.array([6, 0])}, 4)
    even, skewed = figure.axes
    places, kept, dropped = heights(skewed)
    assert [bar.get_height() for bar in places] == [4, 4]
    assert [bar.get_height() for bar in kept] == [4, 0]
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_y(), bar.get_height()) for bar in dropped] == [(0, 4, 2)]
    assert heights(even)[2] == []  # nothing to draw where nothing is dropped
    assert [axes.get_title() for axes in (even, skewed)] == ["even: 0 of 6 dropped", "skewed: 2 of 6 dropped"]
    assert figure.get_suptitle() == "Each expert has 4 places"
    assert even.get_ylim() == skewed.get_ylim()
    assert width(figure) == 1200


def test_who_finds_a_place_marks_rank_and_verdict():
    rank = np.array([[0, 1], [0, -1], [1, 0]])
    fits = np.array([[True, False], [False, False], [True, True]])
    figure = who_finds_a_place(rank, {"rule": fits, "other": ~fits})
    first = figure.axes[0]
    shown = {text.get_position(): text.get_text() for text in first.texts}
    assert shown == {(0, 0): "1", (0, 1): "2×", (1, 0): "1×", (2, 0): "2", (2, 1): "1"}  # (token, expert)
    markers = {(line.get_xdata()[0], line.get_ydata()[0]): line.get_marker() for line in first.get_lines()}
    assert markers[0, 0] == "o"
    assert markers[0, 1] == "s"
    assert first.get_ylim()[0] > first.get_ylim()[1]  # expert 0 on top
    assert [axes.get_title() for axes in figure.axes] == ["rule", "other"]
    assert width(figure) == 1200


def test_drop_rates_are_percentages_above_what_is_unavoidable():
    factor = np.linspace(0.5, 1.5, 3)
    figure = drop_rates(factor, {"router": np.array([0.6, 0.2, 0.1])}, np.array([0.5, 0.0, 0.0]))
    (axes,) = figure.axes
    (line,) = (line for line in axes.get_lines() if line.get_label() == "router")
    np.testing.assert_allclose(line.get_ydata(), [60, 20, 10])
    top = axes.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(50)
    assert width(figure) == 1200


def test_loss_by_factor_ends_with_the_unlimited_loss():
    line = LossByFactor("router", np.array([[3.0, 2.0], [5.0, 2.0]]), np.array([1.0, 1.5]))
    figure = loss_by_factor([0.5, 1.25], {"left": [line], "right": [line, line]})
    left, right = figure.axes
    (mean,) = (drawn for drawn in left.get_lines() if drawn.get_label() == "router")
    np.testing.assert_allclose(mean.get_ydata(), [4, 2, 1.25])
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0.5", "1.25", "∞"]
    assert (left.get_title(), right.get_title()) == ("left", "right")
    dots = [drawn.get_ydata()[0] for drawn in left.get_lines() if drawn.get_marker() == "."]
    assert dots == [3, 5]
    assert width(figure) == 1200
