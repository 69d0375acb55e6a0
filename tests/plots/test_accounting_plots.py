import io

import numpy as np
import pytest

from moe_numpy.accounting import PUBLISHED, active_parameters, total_parameters
from moe_numpy.plots.accounting import (
    ModelSize,
    against_dense,
    experts_read,
    layer_times,
    stored_and_active,
    total_and_active,
)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def pixels(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


def published():
    return [
        ModelSize(
            name,
            total_parameters(entry.architecture).with_embedding,
            active_parameters(entry.architecture).with_embedding,
            f"{entry.architecture.top_k > 2}",
        )
        for name, entry in PUBLISHED.items()
    ]


def test_bars_are_percentages_of_what_is_stored():
    stored, active = np.array([[6e9, 2e9], [30e9, 10e9]]), np.array([[1e9, 1e9], [10e9, 10e9]])
    figure = stored_and_active(["a", "b"], ["experts", "rest"], stored, active)
    (axes,) = figure.axes
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths, [75, 75, 25, 25, 12.5, 25, 12.5, 25])
    starts = [bar.get_x() for bar in axes.patches]
    np.testing.assert_allclose(starts, [0, 0, 75, 75, 0, 0, 12.5, 25])
    assert texts(axes) == ["8 billion stored", "40 billion stored", "2 billion active", "20 billion active"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["experts", "rest"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.yaxis_inverted()  # the first model is on top
    assert pixels(figure) == 1200


def test_bars_differ_in_more_than_colour():
    one = np.ones((1, 5))
    figure = stored_and_active(["a"], list("pqrst"), one, one)
    assert len({bar.get_hatch() for bar in figure.axes[0].patches}) == 5
    assert pixels(figure) == 1200


def test_too_many_parts_are_refused():
    with pytest.raises(ValueError, match="parts must be at most 5, got 6"):
        stored_and_active(["a"], list("pqrstu"), np.ones((1, 6)), np.ones((1, 6)))


def test_every_published_model_has_a_point_and_a_label_that_covers_no_other():
    figure = total_and_active(published())
    (axes,) = figure.axes
    labels = [text for text in axes.texts if text.get_text() in PUBLISHED]
    assert len(labels) == len(PUBLISHED)
    assert pixels(figure) == 1200
    boxes = [text.get_window_extent() for text in labels]
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(len(boxes)) for j in range(i))
    frame = axes.get_window_extent()
    assert all(frame.x0 < box.x0 and box.x1 < frame.x1 for box in boxes)
    assert all(text.xy == (size.total, size.active) for text, size in zip(labels, published(), strict=True))


def test_groups_differ_in_marker_and_shares_are_named():
    axes = total_and_active(published()).axes[0]
    named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    assert [line.get_label() for line in named] == ["False", "True"]
    assert len({line.get_marker() for line in named}) == 2
    assert {"dense", "one in 10", "one in 100", "one in 1000"} <= set(texts(axes))
    dense = next(line for line in axes.get_lines() if line.get_linestyle() == ":")
    np.testing.assert_allclose(dense.get_xdata(), dense.get_ydata())


def test_labels_of_one_crowded_place_part_while_there_is_room_and_are_all_there():
    sizes = [ModelSize(f"model {i}", 1e9, 1e8, "all") for i in range(12)]
    figure = total_and_active(sizes)
    labels = [text for text in figure.axes[0].texts if text.get_text().startswith("model")]
    assert [text.get_text() for text in labels] == [size.label for size in sizes]
    assert pixels(figure) == 1200
    boxes = [text.get_window_extent() for text in labels[:4]]
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(4) for j in range(i))


def test_against_dense_labels_the_ends():
    figure = against_dense([2, 4, 8], {"memory": np.array([1.0, 1.9, 3.63]), "FLOPs": np.ones(3)})
    (axes,) = figure.axes
    assert texts(axes) == ["3.63 ×", "1 ×"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4", "8"]
    assert len({line.get_marker() for line in axes.get_lines()}) == 2
    assert pixels(figure) == 1200


def test_experts_read_draws_lines_and_points_in_percent():
    expected, drawn = {"2 of 8": np.array([0.25, 0.5])}, {"2 of 8": np.array([0.25, 0.4])}
    figure = experts_read([1, 2], expected, drawn)
    line, points = figure.axes[0].get_lines()
    np.testing.assert_allclose(line.get_ydata(), [25, 50])
    np.testing.assert_allclose(points.get_ydata(), [25, 40])
    assert points.get_linestyle() == "None"
    assert figure.axes[0].get_legend().get_title().get_text() == "line: formula; points: drawn"
    assert experts_read([1, 2], expected).axes[0].get_legend().get_title().get_text() == ""
    assert pixels(figure) == 1200


def test_layer_times_are_logarithmic():
    figure = layer_times([1, 64], {"sparse": np.array([0.1, 2.0]), "dense": np.array([1.0, 30.0])})
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["sparse", "dense"]
    np.testing.assert_allclose(axes.get_lines()[1].get_ydata(), [1, 30])
    assert pixels(figure) == 1200
