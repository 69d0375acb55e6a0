import pytest

from moe_numpy.plots.speed import layer_times

ROW = {"shape": [512, 256, 128, 8, 2], "eager_ms": 200.0, "grouped_mm_ms": 50.0, "ours_ms": 20.0, "gemm_ms": 15.0}
ROW["peer_ms"] = 50.0


def test_bars_are_relative_to_the_faster_peer_and_long_ones_are_cut():
    figure = layer_times({"a machine": [ROW, ROW], "another": [ROW]})
    axes = figure.axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([1.9, 1.9, 1, 1, 0.4, 0.4, 0.3, 0.3])
    assert [text.get_text() for text in axes.texts[::2]] == ["200 ms →", "50 ms", "20 ms", "15 ms"]
    assert [axes.get_title() for axes in figure.axes] == ["a machine", "another"]
    assert len(axes.get_yticklabels()) == 2
