import io

import numpy as np
import pytest
from matplotlib.colors import to_hex

from moe_numpy.plots import estimators


def drawn(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


def test_only_lines_that_jump_are_broken():
    h = np.linspace(-1, 1, 100)
    losses = {"jumps": np.where(h < 0.2, 1.0, 3.0), "smooth": h**2}
    figure = estimators.cliff(h, losses, 0.2, {"jumps": True, "smooth": False})
    (axes,) = figure.axes
    left, right, ends, smooth, _ = axes.get_lines()
    assert left.get_xdata()[-1] < 0.2 <= right.get_xdata()[0]
    assert ends.get_ydata().tolist() == [1, 3]
    assert len(smooth.get_xdata()) == 100
    assert drawn(figure) == 1200


def test_a_gradient_keeps_its_length_in_the_plane_and_outcomes_stand_where_they_are():
    exact = np.array([0.5, -0.3, -0.2])
    values = np.array([[1.0, -1, 0], [0, 1, -1], [0.5, 0, -0.5]])
    panels = {
        "right": estimators.Outcomes(np.tile(exact, (3, 1)), exact),
        "wild": estimators.Outcomes(values, values.mean(axis=0)),
    }
    figure = estimators.gradient_plane(panels, np.array([0.5, 0.3, 0.2]), exact)
    right, wild = figure.axes
    (arrow,) = right.texts
    assert np.linalg.norm(arrow.xy) == pytest.approx(np.linalg.norm(exact))
    at = [marks.get_offsets()[0] for marks in right.collections]
    assert len(at) == 4
    for place in at:  # three experts and the mean: all where the arrow ends
        assert list(place) == pytest.approx(list(arrow.xy))
    places = [marks.get_offsets()[0] for marks in wild.collections]
    assert np.linalg.norm(places[0] - places[1]) == pytest.approx(np.linalg.norm(values[0] - values[1]))
    assert right.get_xlim() == wild.get_xlim()
    assert drawn(figure) == 1200


def test_bars_say_what_is_zero_and_what_is_only_small():
    measured = {"exact": (0.0, 2.0), "close": (3e-5, 0.5), "far": (0.25, 0.01)}
    figure = estimators.bias_and_variance({"one": measured})
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.texts] == ["0", "2", "< 0.0001", "0.5", "0.25", "0.01"]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([1e-4, 2, 1e-4, 0.5, 0.25, 0.01])
    keys = [to_hex(patch.get_facecolor()) for patch in figure.legends[0].get_patches()]
    assert keys == [to_hex(axes.patches[0].get_facecolor()), to_hex(axes.patches[1].get_facecolor())]
    assert drawn(figure) == 1200


def test_five_errors_can_be_told_apart():
    errors = {name: np.array([1.0, 0.5, 0.25]) * (i + 1) for i, name in enumerate("abcde")}
    figure = estimators.error_over_tokens([1, 10, 100], errors)
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 5
    assert drawn(figure) == 1200


def test_each_way_to_train_has_a_row_and_each_kind_a_mark():
    runs = [
        estimators.Runs("frozen", "weight 1", np.array([2.9, 2.8, 3.0])),
        estimators.Runs("exact", "weight 1", np.array([2.5, 2.4, 2.6])),
        estimators.Runs("ReMoE", "ReLU", np.array([2.3, 2.4, 2.2])),
    ]
    figure = estimators.final_losses(runs)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["frozen", "exact", "ReMoE"]
    seeds = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    assert [line.get_marker() for line in seeds] == ["o", "o", "s"]
    means = [line.get_xdata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 2]
    assert means == pytest.approx([2.9, 2.5, 2.3])
    assert drawn(figure) == 1200
