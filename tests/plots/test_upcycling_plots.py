import io

import numpy as np

from moe_numpy.plots.upcycling import DENSE_BEFORE, Continued, continued_training


def test_curves_and_ends():
    def runs(start, *ends):
        flops = np.array([start, start + 1e12])
        return [Continued(flops, np.array([3.0, end])) for end in ends]

    groups = {DENSE_BEFORE: runs(0, 2.5, 2.7), "dense": runs(1e12, 2.4, 2.5), "upcycled": runs(1e12, 2.3, 2.3)}
    figure = continued_training(groups)
    left, right = figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == list(groups)
    np.testing.assert_allclose(left.lines[1].get_xydata(), [[1, 3.0], [2, 2.45]])
    assert [text.get_text() for text in right.get_yticklabels()] == ["dense", "upcycled"]
    assert [text.get_text() for text in right.texts] == ["2.450", "2.300"]
    figure.savefig(io.BytesIO(), format="png")


def test_without_a_first_training_the_axis_begins_at_the_first_loss():
    run = Continued(np.array([1e12, 2e12]), np.array([3.0, 2.8]))
    figure = continued_training({"dense": [run]}, title="one seed")
    assert figure.get_suptitle() == "one seed"
    assert 3.0 < figure.axes[0].get_ylim()[1] < 3.1


def test_of_one_seed_the_ends_stand_at_the_lines():
    flops = np.array([1e12, 2e12])
    groups = {
        DENSE_BEFORE: [Continued(np.array([0, 1e12]), np.array([8.0, 3.0]))],
        "dense": [Continued(flops, np.array([3.0, 2.8]))],
        "upcycled": [Continued(flops, np.array([3.0, 2.9]))],
    }
    (axes,) = continued_training(groups).axes
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("2.800", (2, 2.8)), ("2.900", (2, 2.9))]
