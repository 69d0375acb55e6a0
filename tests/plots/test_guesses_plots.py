import io

import numpy as np

from moe_numpy.plots.guesses import when_guesses_pay


def test_costs_stand_beside_what_a_call_gives():
    guesses = np.array([0, 1, 2, 4])
    met = {"equal": np.array([2.0, 3.7, 5.0, 7.7]), "neighbours": np.array([2.0, 3.5, 4.7, 6.7])}
    cost = {"sparse": np.array([1.0, 1.3, 1.6, 2.1]), "dense": np.ones(4)}
    tokens = {"prose": np.array([1.0, 1.3, 1.4, 1.5]), "a $ sign": np.array([1.0, 1.8, 2.3, 3.3])}
    figure = when_guesses_pay(guesses, met, cost, tokens)
    left, right = figure.axes
    np.testing.assert_allclose(left.get_lines()[1].get_ydata(), met["neighbours"])
    assert [line.get_label() for line in right.get_lines()] == [
        "cost, sparse", "cost, dense", "tokens, prose", r"tokens, a \$ sign"
    ]  # fmt: skip
    assert len({line.get_marker() for line in right.get_lines()}) == 4
    assert left.get_xticks().tolist() == guesses.tolist()
    figure.savefig(io.BytesIO(), format="png")
