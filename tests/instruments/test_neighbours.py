"""Experts that several tokens choose together."""

import numpy as np
import pytest

from moe_numpy.instruments.neighbours import experts_met, met_if_independent
from moe_numpy.instruments.routed_text import Choices, RoutedText


def routed(tokens, window):
    """One layer of 8 experts; ``tokens`` lists the experts of each token."""
    token = np.repeat(np.arange(len(tokens)), [len(of) for of in tokens])
    n = np.zeros(len(tokens), np.int64)
    choices = Choices(token, np.concatenate(tokens).astype(np.int64), n, np.zeros(8, np.int64))
    return RoutedText(n, n, n, np.array(window), n, (0,), 8, (choices,))


def slowly(tokens, window, n):
    whole = [i for i in range(len(tokens) - n + 1) if len(set(window[i : i + n])) == 1]
    return np.mean([len(set(np.concatenate(tokens[i : i + n]).tolist())) for i in whole])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_met_by_neighbours_of_a_window(n):
    rng = np.random.default_rng(0)
    tokens = [rng.choice(8, rng.integers(1, 4), replace=False) for _ in range(23)]
    window = [0] * 6 + [1] * 10 + [2] * 7
    np.testing.assert_allclose(experts_met(routed(tokens, window), n), [slowly(tokens, window, n)])


def test_there_must_be_so_many_neighbours():
    of = routed([np.array([0])] * 6, [0, 0, 0, 1, 1, 1])
    assert experts_met(of, 3) == 1
    for n in (0, 4, 7):
        with pytest.raises(ValueError, match=f"num_tokens must be at least 1 and fit a window of the text, got {n}"):
            experts_met(of, n)


def test_independent_tokens_meet_what_draws_meet():
    load = np.array([[50, 30, 20, 100, 0]])  # of 100 tokens, two experts each
    rng = np.random.default_rng(0)
    drawn = rng.random((20000, 3, 5)) < load[0] / 100
    np.testing.assert_allclose(met_if_independent(load, 100, 3), drawn.any(axis=1).sum(axis=1).mean(), rtol=0.01)
    equal = np.full((1, 16), 10)
    np.testing.assert_allclose(met_if_independent(equal, 80, 5), 16 * (1 - (1 - 2 / 16) ** 5))
