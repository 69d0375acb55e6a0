import numpy as np
import pytest

from moe_numpy.plots.speed import Spot, layer_times, roofline, time_by_part, time_per_token

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


def test_the_roof_is_the_lower_of_bandwidth_and_peak_and_spots_stand_in_order_of_intensity():
    spots = [Spot("product", 100.0, 300.0, True), Spot("combine", 0.25, 5.0, False)]
    figure = roofline(400.0, {"memory": 40.0, "cache": 80.0}, spots)
    (axes,) = figure.axes
    memory, cache, *points = axes.lines
    for line, bandwidth in ((memory, 40), (cache, 80)):
        x, y = line.get_data()
        assert y == pytest.approx([min(400, bandwidth * each) for each in x])
        assert y[0] < 400
        assert y[-1] == 400
    assert [(p.get_xdata()[0], p.get_ydata()[0]) for p in points] == [(0.25, 5.0), (100.0, 300.0)]
    assert [p.get_label() for p in points] == ["combine", "product"]
    assert len({p.get_marker() for p in points}) == len({p.get_color() for p in points}) == 2


def test_parts_stand_one_after_the_other_and_the_total_is_written():
    bars = {"forward": {"products": 10.0, "rest": 2.0}, "backward": {"products": 20.0, "rest": 4.0}}
    figure = time_by_part(bars)
    (axes,) = figure.axes
    spans = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert spans == [(0, 10), (0, 20), (10, 2), (20, 4)]
    assert [text.get_text() for text in axes.texts] == ["12 ms", "24 ms"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["products", "rest"]


def test_time_per_token_has_a_panel_for_tokens_and_one_for_experts_that_begins_at_zero():
    tokens, num_experts = np.array([1, 16]), np.array([8, 16, 32])
    figure = time_per_token(tokens, {"layer": np.array([90.0, 9.0])}, num_experts, {"layer": np.array([2.0, 3.0, 4.0])})
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in (*left.lines, *right.lines)] == [[90, 9], [2, 3, 4]]
    assert [text.get_text() for text in right.get_xticklabels()] == ["8", "16", "32"]
    assert (left.get_yscale(), right.get_yscale()) == ("log", "linear")
    assert right.get_ylim()[0] == 0
    assert right.get_ylim()[1] > 4
