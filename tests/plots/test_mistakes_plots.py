import io

import numpy as np
import pytest

from moe_numpy.plots import mistakes


def pixels(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_learning_and_moving_show_mean_and_range_of_the_seeds():
    flat = np.array([[1.0] * 30, [3.0] * 30])
    figure = mistakes.learning_and_moving({"a": flat, "b": 2 * flat}, {"a": 0 * flat, "b": flat})
    loss, moved = figure.axes
    assert labels(loss) == ["a", "b"]
    assert [line.get_ydata()[5] for line in loss.get_lines()] == [2, 4]
    assert [line.get_ydata()[5] for line in moved.get_lines()] == [0, 2]
    heights = loss.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 3)
    assert loss.get_yscale() == "log"
    assert pixels(figure) == 1200


def test_forbidden_choices_go_towards_negative_scores():
    shift = np.array([1.0, 0.0, -1.0])
    figure = mistakes.forbidden_choices(shift, {"zero": np.array([0, 0.5, 1.0]), "inf": np.zeros(3)})
    (axes,) = figure.axes
    left, right = axes.get_xlim()
    assert left > right
    assert axes.get_lines()[0].get_ydata().tolist() == [0, 50, 100]
    assert pixels(figure) == 1200


def test_who_answers_whom_writes_what_arrives():
    figure = mistakes.who_answers_whom({"right": np.eye(3), "wrong": np.array([[0, 0.5, 0], [0.25, 0, 0], [0, 0, 0]])})
    right, wrong, _ = figure.axes
    assert [text.get_text() for text in right.texts] == ["1.0"] * 3
    assert [(text.get_position(), text.get_text()) for text in wrong.texts] == [((1, 0), ".5"), ((0, 1), ".2")]
    assert right.images[0].get_clim() == wrong.images[0].get_clim() == (0, 1)
    assert pixels(figure) == 1200


@pytest.mark.parametrize("steps", [1, 5, 200])
def test_busiest_expert_is_relative_to_the_fair_share(steps):
    figure = mistakes.busiest_expert({"a": np.full(steps, 0.5), "b": np.full(steps, 0.5)}, num_experts=8)
    (axes,) = figure.axes
    a, b, fair = axes.get_lines()
    assert set(a.get_ydata()) == set(b.get_ydata()) == {4}
    assert set(fair.get_ydata()) == {1}
    assert a.get_linewidth() > b.get_linewidth()  # equal curves: both are seen
    assert a.get_marker() != b.get_marker()
    assert pixels(figure) == 1200


def test_flips_by_gap_is_in_percent_over_a_logarithmic_axis():
    figure = mistakes.flips_by_gap(np.array([0.01, 0.1]), {"a": np.array([0.5, 0.0])})
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert axes.get_lines()[0].get_ydata().tolist() == [50, 0]
    assert labels(axes) == ["a"]
    assert pixels(figure) == 1200
