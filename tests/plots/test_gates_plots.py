import io

import numpy as np
import pytest

from moe_numpy.plots import gates


def texts(axes):
    return [text.get_text() for text in axes.texts]


def drawn(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


def lines(axes):
    """Those that were plotted as data, not as a mark at one place."""
    return [line for line in axes.get_lines() if len(np.unique(line.get_xdata())) > 1]


H = np.linspace(-1, 1, 100)


def test_one_logit_is_torn_where_the_choice_changes():
    y = {"dense": H, "sparse": np.where(H < 0.2, 1.0, -1.0)}
    slope = {"dense": np.ones(100), "sparse": np.zeros(100)}
    figure = gates.one_logit(H, y, slope, {"dense": np.array([]), "sparse": np.array([0.2])})
    value, derivative = figure.axes
    for axes in (value, derivative):
        whole, left, right = [line for line in lines(axes) if line.get_linestyle() != "None"]
        assert len(whole.get_xdata()) == 100
        assert left.get_xdata()[-1] < 0.2 <= right.get_xdata()[0]
        assert len(left.get_xdata()) + len(right.get_xdata()) == 100
    (ends,) = [line for line in value.get_lines() if line.get_linestyle() == "None"]
    assert ends.get_ydata().tolist() == [1, -1]
    assert [t.get_text() for t in value.get_legend().get_texts()] == ["dense", "sparse"]
    assert drawn(figure) == 1200


def test_curves_differ_in_more_than_colour():
    y = {"a": H, "b": -H}
    value, _ = gates.one_logit(H, y, y, {"a": np.array([]), "b": np.array([])}).axes
    assert len({line.get_linestyle() for line in lines(value)}) == 2


def test_surfaces_share_one_scale_and_stand_upright():
    h = np.linspace(-3, 3, 20)
    first, second = np.meshgrid(h, h)
    figure = gates.output_surfaces(h, {"slope": first, "half": 0.5 * second, "flat": np.zeros((20, 20))})
    images = [axes.images[0] for axes in figure.axes[:3]]
    assert {image.get_clim() for image in images} == {(-3, 3)}
    assert images[1].origin == "lower"  # the second logit rises upwards
    assert images[0].get_extent() == [-3, 3, -3, 3]
    contours = [bool(axes.collections) for axes in figure.axes[:3]]
    assert contours == [True, True, False]  # nothing to draw on a plateau, and no warning about it
    assert drawn(figure) == 1200


def test_jacobians_number_their_cells():
    rows = np.array([[0.25, 0.0, -0.25], [-0.1, 0.0, 0.1]])
    figure = gates.jacobians({"one": rows, "other": 2 * rows}, [0, 2])
    one, other = figure.axes[:2]
    assert texts(one) == ["+0.250", "0", "-0.250", "-0.100", "0", "+0.100"]
    assert texts(other)[0] == "+0.500"
    assert {axes.images[0].get_clim() for axes in (one, other)} == {(-0.5, 0.5)}
    assert [label.get_text() for label in one.get_yticklabels()] == ["g of 0", "g of 2"]
    assert drawn(figure) == 1200


@pytest.mark.parametrize("steps", [1, 5, 200])
def test_router_learning_starts_at_zero_loss(steps):
    figure = gates.router_learning({"a": np.linspace(2, 1, steps), "b": np.full(steps, 2.0)})
    (axes,) = figure.axes
    assert axes.get_ylim()[0] == 0
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b"]
    assert len({line.get_marker() for line in axes.get_lines()}) == 2
    assert drawn(figure) == 1200


def test_chance_of_choice_puts_points_on_lines():
    at = np.array([-1.0, 0.0, 1.0])
    figure = gates.chance_of_choice(H, {"σ = 1": 0.5 + H / 4}, at, {"σ = 1": 0.5 + at / 4}, threshold=0.0)
    (axes,) = figure.axes
    points = [line for line in axes.get_lines() if line.get_linestyle() == "None"]
    np.testing.assert_allclose(points[0].get_ydata(), [0.25, 0.5, 0.75])
    assert texts(axes) == ["threshold θ"]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["σ = 1"]
    assert drawn(figure) == 1200
