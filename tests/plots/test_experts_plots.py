import io

import numpy as np
import pytest

from moe_numpy.plots.experts import ablation_damage, explained_choice, share_against_damage


def texts(axes):
    return [text.get_text() for text in axes.texts]


def pixels(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


def test_explained_choice_sets_trained_against_both_baselines():
    trained = np.array([[0.2, 0.75], [0.1, 0.4]])
    figure = explained_choice(trained, trained / 2, trained / 10, ["domain", "byte"], layers=[1, 3])
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("layer 1", "layer 3")
    assert [bar.get_width() for bar in first.patches] == pytest.approx([20, 75])
    assert texts(first) == ["20 %", "75 %"]
    untrained, shuffled = first.get_lines()
    np.testing.assert_allclose(untrained.get_xdata(), [10, 37.5])
    np.testing.assert_allclose(shuffled.get_xdata(), [2, 7.5])
    assert untrained.get_marker() != shuffled.get_marker()
    assert [t.get_text() for t in first.get_yticklabels()] == ["domain", "byte"]
    assert len(figure.legends[0].get_texts()) == 3
    assert pixels(figure) == 1200


def test_ablation_damage_writes_every_number_and_never_minus_zero():
    increase = np.zeros((2, 3, 2))
    increase[0, 1, 0], increase[0, 2, 1], increase[1, 0, 0] = 0.5, -0.0004, -0.02
    figure = ablation_damage(increase, ["prose", "code"], layers=[0, 2])
    first, second, bar = figure.axes
    assert texts(first) == ["0", "0", "50.0", "0", "0", "0"]
    assert texts(second)[0] == "-2.0"
    assert second.get_title(loc="left") == "layer 2"
    assert first.images[0].get_clim() == second.images[0].get_clim() == (-1, 1)
    np.testing.assert_allclose(first.images[0].get_array()[0], [0, 1, 0])  # the largest: the end of the scale
    assert bar.get_ylabel() == "hundredths of a bit per byte"  # the unit of the numbers in the cells
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0", "0.5", "5.0", "25.0", "50.0"]
    assert pixels(figure) == 1200


@pytest.mark.parametrize("value", [0.0, -0.01])
def test_ablation_damage_without_any_loss(value):
    assert pixels(ablation_damage(np.full((1, 2, 1), value), ["prose"])) == 1200


def test_share_against_damage_shares_its_scale_between_domains():
    rng = np.random.default_rng(0)
    share, increase = rng.random((2, 4, 3)) / 4, rng.standard_normal((2, 4, 3)) / 10
    figure = share_against_damage(share, increase, ["prose", "code", "arithmetic"])
    assert len({axes.get_ylim() for axes in figure.axes}) == len({axes.get_xlim() for axes in figure.axes}) == 1
    points = figure.axes[1].get_lines()[1]
    np.testing.assert_allclose(points.get_xdata(), 100 * share[:, :, 1].reshape(-1))
    np.testing.assert_allclose(points.get_ydata(), increase[:, :, 1].reshape(-1))
    low, high = figure.axes[0].get_ylim()
    assert low < increase.min() < increase.max() < high
    assert pixels(figure) == 1200
