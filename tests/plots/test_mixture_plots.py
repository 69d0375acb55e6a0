import io

import numpy as np
import pytest

from moe_numpy.plots.mixture import Division, divisions, posterior_over_targets, pulls

X = np.linspace(-1, 1, 40)
Y = np.abs(X)
OUTPUTS = np.stack([-X, X], axis=1)
GATES = np.stack([X < 0, X >= 0], axis=1) * 0.98 + 0.01
SOFT = Division("soft", OUTPUTS, np.full((40, 2), 0.5))
HARD = Division("hard", OUTPUTS, GATES)


def width(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


def thick(axes):
    return [line for line in axes.get_lines() if line.get_linewidth() > 3]


def test_posterior_over_targets_shows_bells_their_sum_and_the_prior():
    y = np.linspace(-2, 2, 21)
    joint = np.stack([0.75 * np.exp(-(y**2)), 0.25 * np.exp(-((y - 1) ** 2))], axis=1)
    posterior = joint / joint.sum(axis=1, keepdims=True)
    figure = posterior_over_targets(y, joint, posterior, np.array([0.75, 0.25]))
    left, right = figure.axes
    np.testing.assert_allclose(left.get_lines()[-1].get_ydata(), joint.sum(axis=1))
    curves = [line for line in right.get_lines() if len(line.get_ydata()) == 21]
    np.testing.assert_array_equal([line.get_ydata() for line in curves], posterior.T)
    assert len({line.get_marker() for line in curves}) == 2
    levels = [line.get_ydata()[0] for line in right.get_lines() if line not in curves]
    assert levels == [0.75, 0.25]
    assert width(figure) == 1200


def test_pulls_has_a_bar_for_each_expert_and_its_number():
    figure = pulls(np.array([0.5, 2.0]), {"first": np.array([-0.25, 1.0]), "second": np.array([0.5, 0.0])})
    first, second = figure.axes
    assert [bar.get_height() for bar in first.patches] == [-0.25, 1.0]
    assert [text.get_text() for text in first.texts] == ["-0.25", "1.00"]
    assert [label.get_text() for label in second.get_xticklabels()] == ["0.5", "2"]
    assert second.get_title() == "second"
    assert first.get_ylim() == second.get_ylim()
    assert width(figure) == 1200


def test_an_expert_is_thick_only_where_the_gate_trusts_it():
    axes = divisions(X, Y, [HARD], title="title", columns=1).axes[0]
    first, second = thick(axes)
    np.testing.assert_array_equal(np.isfinite(first.get_ydata()), X < 0)
    np.testing.assert_array_equal(np.isfinite(second.get_ydata()), X >= 0)
    assert first.get_marker() != second.get_marker()


def test_the_band_below_stacks_the_gate_weights_with_the_number_of_each_expert():
    axes = divisions(X, Y, [HARD], title="title", columns=1).axes[0]
    assert [text.get_text() for text in axes.texts if text.get_text().isdigit()] == ["0", "1"]
    zero, one = (text.get_position()[0] for text in axes.texts if text.get_text().isdigit())
    assert zero < 0 < one
    lower, upper = axes.collections
    data = axes.get_lines()[0].get_ydata().min()
    for band in (lower, upper):
        assert band.get_paths()[0].vertices[:, 1].max() < data  # below the data
    assert lower.get_paths()[0].vertices[:, 1].min() == pytest.approx(axes.get_ylim()[0])
    assert min(axes.get_yticks()) > upper.get_paths()[0].vertices[:, 1].max()


def test_an_idle_expert_has_no_number():
    gates = np.stack([np.full(40, 0.99), np.full(40, 0.01)], axis=1)
    axes = divisions(X, Y, [Division("one works", OUTPUTS, gates)], title="title", columns=1).axes[0]
    assert [text.get_text() for text in axes.texts if text.get_text().isdigit()] == ["0"]


def test_lines_are_drawn_from_left_to_right_whatever_the_order_of_the_data():
    shuffled = np.random.default_rng(0).permutation(40)
    mixed = Division("mixed", OUTPUTS[shuffled], GATES[shuffled], blend=Y[shuffled])
    axes = divisions(X[shuffled], Y[shuffled], [mixed], title="title", columns=1).axes[0]
    reference = divisions(X, Y, [HARD], title="title", columns=1).axes[0]
    for line, expected in zip(thick(axes), thick(reference), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), expected.get_ydata())
    (blend,) = [line for line in axes.get_lines() if line.get_color() == "black"]
    np.testing.assert_array_equal(blend.get_xydata(), np.stack([X, Y], axis=1))


def test_the_blend_is_drawn_only_where_it_is_given():
    blended = Division("blended", OUTPUTS, GATES, blend=Y)
    with_it, without = divisions(X, Y, [blended, HARD], title="title", columns=2).axes
    (line,) = [line for line in with_it.get_lines() if line.get_color() == "black"]
    np.testing.assert_array_equal(line.get_ydata(), Y)
    assert not [line for line in without.get_lines() if line.get_color() == "black"]


def test_panels_share_their_scale_and_say_what_the_band_is():
    figure = divisions(X, Y, [SOFT, HARD, SOFT, HARD], title="title")
    assert [axes.get_title() for axes in figure.axes] == ["soft", "hard", "soft", "hard"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert ["gate" in [t.get_text() for t in axes.texts] for axes in figure.axes] == [True, False, False, True]
    assert width(figure) == 1200


def test_an_expert_far_from_the_data_does_not_squeeze_it():
    far = Division("far", 1000 * OUTPUTS, GATES)
    assert divisions(X, Y, [far], title="title").axes[0].get_ylim()[1] < 2


def test_more_experts_than_styles_are_refused():
    with pytest.raises(ValueError, match="at most 4 experts, got 5"):
        divisions(X, Y, [Division("five", np.zeros((40, 5)), np.full((40, 5), 0.2))], title="title")
    with pytest.raises(ValueError, match="got 5"):
        pulls(np.arange(5.0), {"loss": np.zeros(5)})
