import io

import numpy as np

from moe_numpy.plots import changing


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png")
    return figure


def test_copies_apart_shows_percentages():
    distance = {"zeros": np.array([0.0, 0.01]), "noise": np.array([0.02, 0.05])}
    load = {"zeros": np.array([0.5, 0.5, 0.0]), "noise": np.array([0.2, 0.3, 0.5])}
    left, right, _ = drawn(changing.copies_apart(distance, load)).axes
    np.testing.assert_allclose(left.lines[1].get_ydata(), [2, 5])
    assert [text.get_text() for text in right.texts] == ["50", "50", "0", "20", "30", "50"]


def test_a_new_domain_is_labelled_with_its_changes():
    ways = {"a": changing.NewDomain((2.0, 2.5), (4.0, 3.0)), "b": changing.NewDomain((2.0, 1.99), (4.0, 3.5))}
    (axes,) = drawn(changing.new_domain(ways)).axes
    assert [t.get_text() for t in axes.texts if t.get_text()] == ["+0.500", "-1.000", "-0.010", "-0.500"]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["old text", "new domain"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]


def test_fewer_experts_begin_at_no_rise():
    (axes,) = drawn(changing.fewer_experts([1, 4], {"drop": [0.1, 0.4]}, num_experts=8)).axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0, 0], [1, 0.1], [4, 0.4]])


def test_a_tree_shows_weights_and_their_products():
    gates = [np.array([0.25, 0.75]), np.array([[1.0, 0.0], [0.4, 0.6]])]
    (axes,) = drawn(changing.tree_of_experts(gates, title="two levels")).axes
    texts = [text.get_text() for text in axes.texts]
    assert [t for t in texts if len(t) == 5 and t[0] == "0"] == ["0.250", "0.300", "0.450"]
    assert sorted(t for t in texts if len(t) == 4 and t[1] == ".") == ["0.25", "0.40", "0.60", "0.75", "1.00"]
    assert texts.count("·") == 1


def test_a_tree_of_three_levels_has_an_expert_for_each_leaf():
    gates = [np.array([0.5, 0.5]), np.full((2, 2), 0.5), np.full((2, 2, 3), 1 / 3)]
    (axes,) = drawn(changing.tree_of_experts(gates, title="three levels")).axes
    numbers = [text.get_text() for text in axes.texts if text.get_text().isdigit()]
    assert numbers == [str(n) for n in range(12)]
