import io

import numpy as np
import pytest
from matplotlib.colors import to_hex

from moe_numpy.plots.gradients import (
    Comparison,
    Crossing,
    Link,
    Node,
    entry_by_entry,
    kinks,
    step_size_errors,
    tape,
    wrong_gradients,
)
from moe_numpy.plots.style import BLUE, ORANGE


def width(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


def arrows(axes):
    """Start and end of each arrow, by colour."""
    found = {BLUE: [], ORANGE: []}
    for patch in axes.patches:
        if hasattr(patch, "get_arrowstyle"):
            found[to_hex(patch.get_edgecolor()).upper()].append(patch._posA_posB)
    return found


SQUARE = [Node("d", 8, 16, (0, 0)), Node("L = d d", 64, 1, (1, 0))]


def test_the_tape_shows_names_values_and_gradients():
    axes = tape(SQUARE, [Link(0, 1, 8), Link(0, 1, 7.5)]).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["d", "value 8", "grad 16", "L = d d", "value 64", "grad 1", "8", "7.5"]


def test_values_go_forward_and_gradients_back():
    found = arrows(tape(SQUARE, [Link(0, 1, 8)]).axes[0])
    (((x0, _), (x1, _)),) = found[BLUE]
    assert x0 < x1
    (((x0, _), (x1, _)),) = found[ORANGE]
    assert x0 > x1


def test_two_links_between_the_same_boxes_lie_beside_each_other():
    heights = {start[1] for start, _ in arrows(tape(SQUARE, [Link(0, 1, 8)] * 2).axes[0])[BLUE]}
    assert len(heights) == 2
    once = {start[1] for start, _ in arrows(tape(SQUARE, [Link(0, 1, 8)]).axes[0])[BLUE]}
    assert once.pop() == pytest.approx(sum(heights) / 2)


def test_the_tape_can_be_drawn():
    nodes = [Node("a", 2, 64, (0, 1)), Node("b", 3, 32, (0, 0)), Node("c = a b", 6, 16, (1, 0.5))]
    assert width(tape(nodes, [Link(0, 2, 48), Link(1, 2, 32)])) == 1200


def test_step_size_errors_share_their_axis_and_name_the_rules():
    steps = 10.0 ** np.arange(-8, 0)
    errors = {"float64": {"one-sided": steps, "central": steps**2}, "float32": {"one-sided": 1e4 * steps}}
    figure = step_size_errors(steps, errors, "title")
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("float64", "float32")
    assert first.get_ylim() == second.get_ylim()
    low, high = first.get_ylim()
    assert low <= 1e-16
    assert high > 10 * 1e3  # room for the words above the lines
    assert [line.get_label() for line in first.get_lines()] == ["one-sided", "central"]
    np.testing.assert_array_equal(first.get_lines()[1].get_ydata(), steps**2)
    assert len({line.get_marker() for line in first.get_lines()}) == 2
    assert width(figure) == 1200


def test_an_error_of_zero_stays_on_the_logarithmic_axis():
    figure = step_size_errors(np.array([1e-3, 1e-2]), {"float64": {"exact": np.zeros(2)}}, "title")
    assert (figure.axes[0].get_lines()[0].get_ydata() > 0).all()
    assert width(figure) == 1200


def test_entry_by_entry_puts_both_gradients_at_each_entry():
    numeric, analytic = np.array([[1.0, -2.0], [0.5, 0.0]]), np.array([[1.0, -2.0], [5.0, 0.0]])
    figure = entry_by_entry([Comparison("a", numeric, analytic)] * 2, columns=2, title="title")
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    np.testing.assert_array_equal(lines["numeric"].get_ydata(), [1, -2, 0.5, 0])
    np.testing.assert_array_equal(lines["analytic"].get_ydata(), [1, -2, 5, 0])
    assert lines["numeric"].get_marker() != lines["analytic"].get_marker()
    assert [axes.get_title() for axes in figure.axes] == ["a", "a"]
    assert width(figure) == 1200


def test_rounding_around_zero_is_not_magnified():
    figure = entry_by_entry([Comparison("a", np.array([1e-12, -1e-12]), np.zeros(2))], columns=1, title="title")
    assert figure.axes[0].get_ylim() == (-1, 1)
    figure = entry_by_entry([Comparison("a", np.array([1e-3, 0.0]), np.zeros(2))], columns=1, title="title")
    assert figure.axes[0].get_ylim()[1] < 0.01


def test_wrong_gradients_counts_and_marks_the_wrong_entries():
    numeric = np.array([1.0, 2.0, 3.0, 0.0])
    figure = wrong_gradients([Comparison("sign", numeric, -numeric), Comparison("none", numeric, numeric)])
    assert [axes.get_title() for axes in figure.axes] == ["sign: 3 of 4 wrong", "none: 0 of 4 wrong"]
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    np.testing.assert_array_equal(lines["wrong"].get_xydata(), [[1, -1], [2, -2], [3, -3]])
    np.testing.assert_array_equal(lines["right"].get_xydata(), [[0, 0]])
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()
    assert width(figure) == 1200


def test_kinks_has_the_function_above_its_slopes():
    x = np.linspace(-1, 1, 9)
    crossing = Crossing("ReLU", np.maximum(x, 0), {"derivative": (x > 0) * 1.0, "central": x / 2 + 0.5})
    figure = kinks(x, [crossing, crossing])
    above, _, below, _ = figure.axes
    assert above.get_title() == "ReLU"
    np.testing.assert_array_equal(above.get_lines()[0].get_ydata(), np.maximum(x, 0))
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["derivative", "central"]
    assert len({line.get_linestyle() for line in below.get_lines()[:2]}) == 2
    assert [np.isnan(line.get_ydata()).sum() for line in below.get_lines()[:2]] == [1, 0]  # a gap at the jump
    assert width(figure) == 1200
