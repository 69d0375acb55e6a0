import io

import numpy as np

from moe_numpy.plots import modalities


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png")
    return figure


def test_patches_stand_before_the_caption_with_their_targets():
    image = np.arange(16.0).reshape(4, 4) / 16
    tokens, targets = np.array([-1, -1, -1, -1, ord("a"), ord("\n")]), np.array([-1, -1, -1, ord("a"), ord("\n"), -1])
    (axes,) = drawn(modalities.patches_as_tokens(image, tokens, targets)).axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[:4] == ["0", "1", "2", "3"]  # numbers of the patches
    assert [t for t in texts[4:-3] if t in ("·", "a", "↵")] == ["·", "·", "·", "a", "a", "↵", "↵", "·"]
    assert texts.count("-1") == 4
    np.testing.assert_array_equal(axes.images[2].get_array(), image[:2, 2:])  # patch 1: row 0, column 1


def test_pools_show_what_is_forbidden_and_what_was_chosen():
    gate = {"separate": np.array([[0.0, 1.0], [0.6, 0.0]])}
    allowed = {"separate": np.array([[False, True], [True, False]])}
    (axes,) = drawn(modalities.routing_in_pools(gate, allowed, ["patch", "a"])).axes
    assert [text.get_text() for text in axes.texts] == ["1.0", "0.6"]
    np.testing.assert_array_equal(np.ma.getmaskarray(axes.images[0].get_array()), ~allowed["separate"])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["patch", "a"]


def test_probabilities_name_text_and_patches_once():
    panels = {"start": np.full((4, 2), 0.5), "after": np.array([[1.0, 0.0]] * 4)}
    left, right, _ = drawn(modalities.probabilities_of_tokens(panels, num_text=1, title="t")).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["text", "patches"]
    assert [text.get_text() for text in right.get_yticklabels()] == ["", ""]
    assert left.lines[0].get_ydata()[0] == 0.5
    np.testing.assert_array_equal(right.images[0].get_array(), panels["after"])
