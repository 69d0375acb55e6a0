import io

import numpy as np
import pytest

from moe_numpy import plots


def pixels(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


@pytest.mark.parametrize("num_layers", [1, 3])
def test_co_activation_shows_the_lift_of_pairs_with_enough_tokens(num_layers):
    together = np.full((num_layers, 3, 3), 40)
    expected = np.full((num_layers, 3, 3), 10.0)
    together[0, 0, 1], expected[0, 0, 2] = 0, 4.9
    figure = plots.co_activation(together, expected, range(5, 5 + num_layers))
    assert figure.axes[0].get_title() == "layer 5"
    shown = figure.axes[0].get_images()[0].get_array()
    assert shown[1, 2] == pytest.approx(2)  # four times as often
    assert shown[0, 1] == -3  # never: the end of the scale
    np.testing.assert_array_equal(shown.mask, expected[0] < 5)
    assert pixels(figure) == 1200


def test_explained_by_layer_has_a_line_per_label_with_gaps():
    share = np.array([[0.9, 0.5, np.nan], [-0.05, 0.1, 0.2]])
    figure = plots.explained_by_layer(share, ["token", "$position$"], layers=[1, 3, 5])
    (axes,) = figure.axes
    token, position, _ = axes.get_lines()
    np.testing.assert_allclose(token.get_ydata(), [90, 50, np.nan])
    np.testing.assert_allclose(position.get_xdata(), [1, 3, 5])
    assert axes.get_ylim()[0] < -5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["token", r"\$position\$"]
    assert pixels(figure) == 1200


def test_explained_by_layer_where_nothing_can_be_said():
    assert pixels(plots.explained_by_layer(np.full((2, 1), np.nan), ["a", "b"])) == 1200


def test_maps_of_positions_and_tokens_have_their_names():
    shares = np.random.default_rng(0).dirichlet(np.ones(40), size=(2, 3))
    for draw, title in ((plots.expert_by_position, "position"), (plots.expert_by_token, "tokens")):
        figure = draw(shares, ["0", "$a", "\\n␣"], layers=[2, 4])
        assert title in figure.get_suptitle()
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", r"\$a", "\\n␣"]
        assert figure.axes[1].get_title() == "layer 4"
        assert pixels(figure) == 1200


def test_numbers_of_many_experts_do_not_run_into_each_other():
    figure = plots.expert_load(np.random.default_rng(0).dirichlet(np.ones(384), size=2))
    assert len(figure.axes[0].get_xticks()) <= 10
    assert pixels(figure) == 1200
