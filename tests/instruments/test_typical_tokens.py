import numpy as np
import pytest

from moe_numpy.instruments.typical_tokens import typical_labels


def listed(**of_token):
    """Labels and experts of choices; the keys are characters, the values how often each expert was chosen."""
    label = [ord(c) for c, row in of_token.items() for count in row for _ in range(count)]
    expert = [e for row in of_token.values() for e, count in enumerate(row) for _ in range(count)]
    return np.array(label), np.array(expert)


def names(found):
    return [[(chr(t.label), t.count) for t in of] for of in found]


def test_lift_compares_with_the_load_of_the_expert():
    choices = listed(a=[30, 30], b=[0, 60], c=[40, 0])  # expert 0 takes 70 of 160
    found = typical_labels(*choices, 2, min_count=20)
    assert names(found) == [[("c", 40), ("a", 30)], [("b", 60)]]  # a has a lift below 1 at expert 1
    assert found[0][0].lift == pytest.approx(1 / (70 / 160))
    assert found[0][1].lift == pytest.approx(0.5 / (70 / 160))
    assert names(typical_labels(*choices, 2, min_count=35))[0] == [("c", 40)]
    assert names(typical_labels(*choices, 2, limit=1, min_count=20))[0] == [("c", 40)]


def test_an_idle_expert_has_nothing_typical_and_what_makes_no_difference_is_not_typical():
    assert typical_labels(*listed(a=[50, 0], b=[50, 0]), 3) == [[], [], []]
    assert typical_labels(np.zeros(0, int), np.zeros(0, int), 2) == [[], []]


def test_ties_go_to_the_lowest_label():
    assert names(typical_labels(*listed(b=[20, 0], a=[20, 0], z=[0, 40]), 2))[0] == [("a", 20), ("b", 20)]


def test_large_vocabularies_take_no_memory():
    label = np.arange(100_000) % 50 * 10**9
    found = typical_labels(label, label // 10**9 % 384, 384)
    assert [of[0].label for of in found[:50]] == [i * 10**9 for i in range(50)]
    assert found[0][0].lift == pytest.approx(50)
