from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.instruments.findings import findings_of
from moe_numpy.instruments.positions import position_groups
from moe_numpy.instruments.routed_text import Choices, RoutedText

WINDOWS, LENGTH, EXPERTS = 40, 30, 8


def text_of(*rules):
    """A text whose tokens choose by rules, one per layer: functions of (ids, position, domain) to experts [N, k]."""
    rng = np.random.default_rng(0)
    ids = rng.zipf(1.4, WINDOWS * LENGTH) % 100
    position, window = np.tile(np.arange(LENGTH), WINDOWS), np.repeat(np.arange(WINDOWS), LENGTH)
    before = np.where(position == 0, -1, np.roll(ids, 1))
    domain = window % 2
    layers = []
    for rule in rules:
        experts = np.asarray(rule(ids, position, domain)).reshape(len(ids), -1)
        token = np.repeat(np.arange(len(ids)), experts.shape[1])
        layers.append(Choices(token, experts.reshape(-1), experts[:, 0], np.zeros(EXPERTS, int)))
    numbers = tuple(range(10, 10 + len(rules)))
    return RoutedText(ids, before, domain, window, position, numbers, EXPERTS, tuple(layers))


def random_experts(ids, position, domain):
    return np.random.default_rng(1).integers(EXPERTS, size=len(ids))


@pytest.fixture(scope="module")
def found():
    return findings_of(
        text_of(
            lambda ids, position, domain: ids % EXPERTS,
            lambda ids, position, domain: position % EXPERTS,
            lambda ids, position, domain: domain * 4,
            random_experts,
        ),
        2,
        min_count=10,
    )


def adjusted(found, label):
    return [each.adjusted for each in found.explained[label]]


def test_routers_of_one_rule_are_seen_through(found):
    np.testing.assert_allclose(adjusted(found, "token"), [1, 0, 0, 0], atol=0.05)
    np.testing.assert_allclose(adjusted(found, "position"), [0, 1, 0, 0], atol=0.05)
    np.testing.assert_allclose(adjusted(found, "domain"), [0, 0, 1, 0], atol=0.05)
    np.testing.assert_allclose(adjusted(found, "token before"), [0, 0, 0, 0], atol=0.05)


def test_domains_are_farthest_apart_where_they_decide(found):
    assert found.clearest_layer == 12
    assert found.separation[2] == 1
    np.testing.assert_array_equal(found.domain_expert.sum(axis=(1, 2)), WINDOWS * LENGTH)


def test_positions_in_groups(found):
    assert found.position_names == ["0", "1", "2-3", "4-7", "8-15", "16-31"]
    of_layer = found.position_expert[1]
    np.testing.assert_array_equal(of_layer[0], [WINDOWS, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(of_layer[2], [0, 0, WINDOWS, WINDOWS, 0, 0, 0, 0])
    assert found.position_expert.sum(axis=(1, 2)).tolist() == [WINDOWS * LENGTH] * 4


def test_typical_tokens_are_those_of_the_rule(found):
    for e, of in enumerate(found.typical[0]):
        assert of
        assert all(t.label % EXPERTS == e for t in of)


def test_frequent_tokens_and_their_experts(found):
    ids, counts = found.frequent_tokens(3)
    assert sorted(ids) == ids.tolist() == [1, 2, 3]
    assert counts.shape == (4, 3, EXPERTS)
    np.testing.assert_array_equal(counts[0].argmax(axis=1), ids % EXPERTS)
    np.testing.assert_array_equal(counts.sum(axis=2)[0], [(found.routed.ids == id).sum() for id in ids])


def test_pairs_stand_out_and_one_domain_explains_nothing():
    rng = np.random.default_rng(2)

    def together(ids, position, domain):
        others = rng.permuted(np.tile([2, 3, 4, 5, 6, 7], (len(ids), 1)), axis=1)[:, :2]
        return np.where((ids == 1)[:, None], [[0, 1]], others)

    routed = text_of(together)
    found = findings_of(replace(routed, domain=np.zeros_like(routed.domain)), 1, min_count=10)
    assert found.pairs[0][0].experts == (0, 1)
    assert "domain" not in found.explained


def test_groups_of_positions_double():
    group, names = position_groups(np.array([0, 1, 2, 3, 4, 7, 8, 15, 16]))
    assert [names[g] for g in group] == ["0", "1", "2-3", "2-3", "4-7", "4-7", "8-15", "8-15", "16-31"]
    assert position_groups(np.array([0]))[1] == ["0"]
