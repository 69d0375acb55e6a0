import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from moe_numpy.plots import dispatch


def texts(axes):
    return [text.get_text() for text in axes.texts]


def drawn(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


TOKEN = np.array([1, 3, 5, 2, 0, 4])
EXPERT = np.array([0, 0, 0, 1, 2, 2])


def test_permutation_goes_there_and_back():
    figure = dispatch.permutation(TOKEN, EXPERT, 6)
    (axes,) = figure.axes
    ways = [line.get_xdata() for line in axes.get_lines() if abs(np.ptp(line.get_ydata())) > 0.5]
    assert len(ways) == 12
    for n, t in enumerate(TOKEN):
        for from_token, to_row in (ways[2 * n], ways[2 * n + 1]):  # down to its row, and from there to its output
            assert (from_token, to_row) == (t + 0.5, n + 0.5)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "3", "4", "6"]
    assert "token 3\n→ e0" in texts(axes)
    assert drawn(figure) == 1200


def test_permutation_of_an_unused_expert_and_of_copies():
    figure = dispatch.permutation(np.array([0, 1, 2, 0, 1, 2] * 2), np.array([0] * 6 + [3] * 6), 3)
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "6", "12"]
    assert len({to_hex(p.get_facecolor()) for p in axes.patches}) == 3  # two experts and the white of tokens
    assert drawn(figure) == 1200


def test_buffers_show_what_is_used():
    figure = dispatch.buffers(TOKEN, EXPERT, 6, 3)
    (axes,) = figure.axes
    words = texts(axes)
    assert "onehot: 6 of 54 entries of the mask used" in words
    assert "padded: 6 of 9 places" in words
    assert "sorted: 6 of 6 rows" in words
    cells = [p for p in axes.patches if isinstance(p, Rectangle)]
    grey = [p for p in cells if to_hex(p.get_facecolor()) == "#dddddd"]
    assert len(grey) == 6 * 9 + 9
    assert len(cells) - len(grey) == 3 * 6
    ones = {(p.get_x(), p.get_y()) for p in cells if p not in grey and p.get_y() < 6}
    assert ones == {(0, 1), (1, 3), (2, 5), (3, 2), (6, 0), (7, 4)}  # expert · C + place, token
    assert drawn(figure) == 1200


def test_buffers_of_an_unused_expert():
    figure = dispatch.buffers(np.array([0, 1, 2]), np.array([0, 0, 2]), 3, 3)
    assert "padded: 3 of 6 places" in texts(figure.axes[0])
    assert drawn(figure) == 1200


def test_costs_are_labelled():
    figure = dispatch.costs({"ms": {"loop": 1234.0, "sorted": 4.26}, "MB": {"loop": 1.0, "sorted": 26.4}})
    time, memory = figure.axes
    assert texts(time) == ["1,234", "4.3"]
    assert texts(memory) == ["1", "26"]
    assert memory.get_xlabel() == "MB"
    low, high = time.get_ylim()
    assert low > high  # the first strategy above
    assert drawn(figure) == 1200


@pytest.mark.parametrize("count", [1, 2])
def test_growth(count):
    x = np.array([2, 4, 8])
    panel = dispatch.Growth("time", "experts E", "milliseconds", x, {"a": [1.0, 2.0, 4.0], "b": np.array([3.0, 3, 3])})
    figure = dispatch.growth([panel] * count)
    assert len(figure.axes) == count
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "4", "8"]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b"]
    assert len({line.get_marker() for line in axes.get_lines()}) == 2
    assert axes.get_lines()[0].get_linewidth() > axes.get_lines()[1].get_linewidth()
    assert drawn(figure) == 1200
