import io
import math

import numpy as np
import pytest

from moe_numpy import plots
from moe_numpy.instruments.routing_report import SentenceRouting
from moe_numpy.plots.style import smoothed


def shares(*shape, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1])


def texts(axes):
    return [text.get_text() for text in axes.texts]


def pixels(figure):
    """Draw it; a glyph that the font lacks or a layout that cannot fit is a warning, and fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int.from_bytes(buffer.getvalue()[16:20])


def curve(label, steps=40, validation=None):
    step = np.arange(1, steps + 1)
    return plots.Curve(label, step, 2 + 3 / step, {0: 5.5, steps: 2.2} if validation is None else validation)


def test_learning_curves_compare_two_runs():
    figure = plots.learning_curves([curve("MoE"), curve("dense", validation={0: 5.5, 40: 2.4})])
    whole, late = figure.axes
    assert [t.get_text() for t in whole.get_legend().get_texts()] == [
        "MoE, training", "MoE, validation", "dense, training", "dense, validation",
    ]  # fmt: skip
    assert texts(late) == ["2.200", "2.400"]
    low, high = late.get_ylim()
    assert 2 < low + 0.1 < 2.2 < 2.4 < high < 3  # the start does not hide the difference
    assert late.child_axes[0].get_ylabel() == "bits per byte"
    assert pixels(figure) == 1200
    bits = late.child_axes[0].get_ylim()
    np.testing.assert_allclose(bits, np.array([low, high]) / math.log(2))


@pytest.mark.parametrize("steps", [1, 2, 500])
def test_learning_curves_of_any_length(steps):
    assert pixels(plots.learning_curves([curve("MoE", steps)])) == 1200


def test_learning_curves_without_validation():
    assert pixels(plots.learning_curves([curve("MoE", validation={})])) == 1200


def test_lines_differ_in_more_than_colour():
    whole = plots.learning_curves([curve("a"), curve("b")]).axes[0]
    smooth = [line for line in whole.get_lines() if "training" in line.get_label()]
    points = [line for line in whole.get_lines() if "validation" in line.get_label()]
    assert len({line.get_linestyle() for line in smooth}) == 2
    assert len({line.get_marker() for line in points}) == 2


def test_expert_by_domain_shows_every_number_and_how_far_domains_are_apart():
    table = np.array([[[0.9, 0.1], [0.1, 0.9]], [[0.5, 0.5], [0.5, 0.5]], [[0.6, 0.4], [0.5, 0.5]]])
    figure = plots.expert_by_domain(table, ["prose", "code"], layers=[1, 3, 5])
    first = figure.axes[0]
    assert texts(first) == ["90", "10", "10", "90"]
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        f"layer {layer}: closest domains {percent} % apart" for layer, percent in ((1, 80), (3, 0), (5, 10))
    ]
    assert [label.get_text() for label in first.get_yticklabels()] == ["prose", "code"]
    assert len(figure.axes) == 4  # three panels and the scale; the fourth place is empty
    scales = {axes.images[0].get_clim() for axes in figure.axes[:3]}
    assert len(scales) == 1
    assert pixels(figure) == 1200


def test_many_experts_have_a_row_of_their_own_and_no_numbers():
    figure = plots.expert_by_domain(shares(2, 3, 64), ["a", "b", "c"])
    assert texts(figure.axes[0]) == []
    assert len(figure.axes[0].get_xticks()) <= 16
    assert pixels(figure) == 1200


def test_expert_by_byte():
    figure = plots.expert_by_byte(shares(1, 4, 8), ["lower case", "digits", "space", "other"])
    assert figure.axes[0].get_title() == "layer 0"
    assert len(texts(figure.axes[0])) == 32
    assert pixels(figure) == 1200


def test_expert_load_marks_the_fair_share_and_what_was_dropped():
    load = np.array([[0.7, 0.1, 0.1, 0.1], [0.25] * 4])
    figure = plots.expert_load(load, np.array([0.125, 0.0]), layers=[0, 2])
    first, second = figure.axes
    assert [bar.get_height() for bar in first.patches] == pytest.approx([70, 10, 10, 10])
    assert first.get_lines()[0].get_ydata()[0] == 25
    assert (first.get_title(), second.get_title()) == ("layer 0, 12.5 % dropped", "layer 2, 0.0 % dropped")
    assert "25.0 %" in figure.get_suptitle()
    assert first.get_ylim() == second.get_ylim()
    assert plots.expert_load(load).axes[0].get_title() == "layer 0"
    assert pixels(figure) == 1200


def test_load_over_training_is_relative_to_the_fair_share():
    load = np.tile(np.array([0.5, 0.25, 0.25, 0.0]), (100, 3, 1))
    figure = plots.load_over_training(np.arange(1, 101), load)
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (4, 100)
    np.testing.assert_allclose(image[:3, 50], [1, 0, 0], atol=1e-12)  # powers of two of the fair share
    assert image[3, 50] < -3  # an empty expert is below the scale
    assert pixels(figure) == 1200


def test_sentence_routing_names_every_byte():
    text = b"a $_{}^\\\n\t\xe2%"
    weight = np.zeros((2, len(text), 4), np.float32)
    weight[:, :, 1] = 0.7
    weight[0, 0] = 0
    asked = weight > 0
    figure = plots.sentence_routing(SentenceRouting(text, (1, 3), weight, asked))
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["a", "␣", r"\$", "_", "{", "}", "^", "\\", "↵", "→", "·", "%"]
    assert figure.axes[1].get_title(loc="left") == "layer 3"
    assert figure.get_supxlabel() == ""
    assert pixels(figure) == 1200


def test_sentence_routing_marks_what_was_dropped():
    weight = np.zeros((1, 3, 2), np.float32)
    asked = np.zeros((1, 3, 2), bool)
    asked[0, 1, 1] = True
    figure = plots.sentence_routing(SentenceRouting(b"abc", (0,), weight, asked))
    (marks,) = figure.axes[0].get_lines()
    np.testing.assert_array_equal(marks.get_xydata(), [[1, 1]])
    assert "full" in figure.get_supxlabel()
    assert pixels(figure) == 1200


def test_sentence_routing_names_tokens_of_many_characters():
    weight = np.full((1, 2, 384), 1 / 384, np.float32)
    figure = plots.sentence_routing(SentenceRouting((5, 9), (0,), weight, weight > 0), ["␣the", "$1\\n"])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["␣the", r"\$1\n"]
    assert pixels(figure) == 1200


def test_smoothing_keeps_a_constant_and_a_mean():
    assert smoothed(np.full(200, 3.0)) == pytest.approx(3)
    values = np.arange(200.0)
    np.testing.assert_allclose(smoothed(values)[10:-10], values[10:-10])


def test_save_replaces_a_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("old")
    plots.save(plots.expert_load(np.full((1, 2), 0.5)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_text("old")
    figure = plots.expert_load(np.full((1, 2), 0.5))
    monkeypatch.setattr(figure, "savefig", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert path.read_text() == "old"


def test_nothing_global_is_touched():
    import sys

    plots.expert_load(np.full((1, 2), 0.5))
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("name", ["a$b$c", "$x_{", "\t", "new\nline", "\\frac"])
def test_names_are_drawn_as_they_are(name):
    figure = plots.expert_by_domain(shares(1, 2, 4), [name, "b"], [0])
    assert pixels(figure) == 1200
    (label, _) = figure.axes[0].get_yticklabels()
    assert label.get_text().replace("\\$", "$") == "".join(c if c.isprintable() else " " for c in name)


def test_a_script_that_the_font_lacks_is_saved_without_a_warning(tmp_path):
    plots.save(plots.expert_by_domain(shares(1, 2, 4), ["漢字", "b"], [0]), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_experts_by_modality():
    figure = plots.expert_by_modality(shares(2, 2, 12), [1, 3])
    first, second, _ = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["text", "image"]
    assert [first.get_title(), second.get_title()] == ["layer 1", "layer 3"]
    assert pixels(figure) == 1200
