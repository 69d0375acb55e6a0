import io

import numpy as np

from moe_numpy.plots import orchestration


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png")
    return figure


def test_two_routers_number_each_choice_and_label_each_outcome():
    expert = np.array([[0, 3], [2, 1]])
    above, below = drawn(orchestration.two_routers(expert, "a$", {"code": 0.9, "none": 0.1}, num_experts=4)).axes
    assert [text.get_text() for text in above.texts] == ["0", "3", "2", "1"]
    assert [text.get_text() for text in below.texts] == ["0.900", "0.100"]
    assert [bar.get_width() for bar in below.patches] == [0.9, 0.1]


def test_reliability_shows_the_share_right_of_each_bin():
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.35])  # (0.8, 0.9] and (0.3, 0.4]
    correct = np.array([True, True, True, False, False])
    (axes,) = drawn(orchestration.reliability({"a": (confidence, correct)}, title="t")).axes
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [0, 0.75])
    np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in axes.patches], [0.35, 0.85])
    assert [text.get_text() for text in axes.texts] == ["1", "4"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [0.35, 0.9])


def test_abstention_is_in_per_cent():
    (axes,) = drawn(orchestration.abstention(np.array([0.2, 1]), {"answered": np.array([1, 0.5])}, chosen=0.5)).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [100, 50])
    assert axes.lines[1].get_xdata()[0] == 0.5


def test_losses_have_a_mark_for_each_kind_and_their_mean():
    losses = {"own": np.array([1.0, 2.0]), "one": np.array([1.5, 1.7])}
    (axes,) = drawn(orchestration.losses_by_model(losses, ["prose", "code"], title="t")).axes
    assert [text.get_text() for text in axes.texts] == ["1.500", "1.600"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["prose", "code", "mean"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["own", "one"]
