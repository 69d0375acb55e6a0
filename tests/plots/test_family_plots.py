import io

import numpy as np
import pytest

from moe_numpy.plots.family import biased_choice, dependence, one_token, soft_mixing


def texts(axes):
    return [text.get_text() for text in axes.texts]


def pixels(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


def points(axes, marker):
    """Where this marker stands: pairs of horizontal and vertical positions."""
    (line,) = [line for line in axes.get_lines() if line.get_marker() == marker]
    return list(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True))


def test_one_token_shows_the_softmax_first_and_leaves_out_what_was_not_chosen():
    figure = one_token({"switch": np.array([0.75, 0.0]), "scaled": np.array([0.0, 2.5])}, np.array([0.75, 0.25]))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["softmax(h)", "switch", "scaled"]
    assert texts(axes) == ["0.75", "0.25", "0.75", "2.50"]
    assert [text.get_position() for text in axes.texts] == [(0, 0), (1, 0), (0, 1), (1, 2)]
    assert axes.images[0].get_clim() == (0, 1)
    assert pixels(figure) == 1200


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_titles_of_dependence_stand_clear_of_each_other(count):
    figure = dependence({f"router {i}": np.ones((16, 16), bool) for i in range(count)}, sequence_length=8)
    pixels(figure)
    above = figure._suptitle.get_window_extent().y0
    assert all(axes.title.get_window_extent().y1 < above for axes in figure.axes)


def test_dependence_tells_past_future_and_other_sequences_apart():
    moved = np.zeros((4, 4), bool)
    moved[0, 0] = moved[0, 1] = moved[1, 0] = moved[3, 0] = moved[3, 2] = True
    figure = dependence({"router": moved}, sequence_length=2)
    (axes,) = figure.axes
    assert points(axes, ".") == [(0, 0)]
    assert points(axes, "o") == [(0, 1)]  # exchanging token 0 moves output 1, which is later
    assert points(axes, "X") == [(1, 0), (3, 2)]
    assert points(axes, "^") == [(3, 0)]
    assert axes.yaxis_inverted()
    alone = dependence({"router": np.eye(4, dtype=bool)}, sequence_length=4).legends[0]
    assert [t.get_text() for t in alone.get_texts()] == ["the token itself"]  # only what is seen
    assert "sees the future" in [t.get_text() for t in figure.legends[0].get_texts()][2]
    assert pixels(figure) == 1200


def test_dependence_has_one_panel_per_router():
    names = [f"router {i}" for i in range(4)]
    figure = dependence(dict.fromkeys(names, np.eye(16, dtype=bool)), sequence_length=8)
    assert [axes.get_title() for axes in figure.axes] == names
    assert pixels(figure) == 1200


def test_soft_mixing_has_one_scale_for_both_matrices():
    dispatch, combine = np.array([[0.75, 0.5], [0.25, 0.5]]), np.array([[0.9, 0.1], [0.5, 0.5]])
    figure = soft_mixing(dispatch, combine)
    left, right = figure.axes
    assert texts(left) == ["0.75", "0.50", "0.25", "0.50"]
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 0.9)
    assert left.get_title().startswith("dispatch")
    assert right.get_title().startswith("combine")
    assert pixels(figure) == 1200


def test_biased_choice_marks_the_chosen_and_greys_the_excluded_groups():
    score, biased = np.array([0.9, 0.1, 0.6, 0.5]), np.array([-0.2, 0.1, 0.6, 0.5])
    gate = np.array([0.0, 0.0, 2.5, 0.0])
    figure = biased_choice(score, biased, gate=gate, allowed=np.array([False, False, True, True]), num_groups=2)
    left, right = figure.axes
    ((x, y),) = points(left, "v")
    assert 2 < x < 2.5
    assert y > 0.6
    assert texts(right) == ["2.50"]
    heights = [bar.get_height() for container in left.containers for bar in container]
    np.testing.assert_allclose(heights, [*score, *biased])
    (grey,) = [patch for patch in left.patches if patch.get_alpha()]
    assert (grey.get_x(), grey.get_width()) == (-0.5, 2.0)
    assert left.get_ylim()[0] < -0.2  # a negative score is in view
    assert pixels(figure) == 1200
