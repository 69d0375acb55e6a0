import math

import numpy as np
import pytest

from moe_numpy.instruments.dependence import adjusted, entropy, explained, explained_beyond_chance

WINDOWS, LENGTH, EXPERTS = 64, 32, 8
WINDOW = np.repeat(np.arange(WINDOWS), LENGTH)
POSITION = np.tile(np.arange(LENGTH), WINDOWS)
TOKEN = np.random.default_rng(0).zipf(1.3, WINDOWS * LENGTH).clip(max=200_000)


def beyond(choice, label, **settings):
    return explained_beyond_chance(choice, label, WINDOW, np.random.default_rng(1), **settings)


def test_three_to_one_in_two_domains_by_hand():
    expert, domain = np.array([0, 0, 0, 1, 1, 1, 1, 0]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert entropy(expert) == pytest.approx(1)
    assert entropy(expert, domain) == pytest.approx(1.811, abs=5e-4)
    assert explained(expert, domain) == pytest.approx(0.189, abs=5e-4)


def test_several_labels_count_jointly_and_any_size():
    a, b = np.array([0, 0, 1, 1]), np.array([-5, 10**12, -5, 10**12])
    xor = np.array([7, 3, 3, 7])
    assert explained(xor, a) == explained(xor, b) == pytest.approx(0)
    assert explained(xor, a, b) == pytest.approx(1)
    assert entropy(a.reshape(2, 2), b.reshape(2, 2)) == pytest.approx(2)


def test_a_constant_choice_leaves_nothing_to_explain():
    assert explained(np.zeros(5, int), np.arange(5)) == 0


def test_adjusted_is_0_at_chance_and_1_for_what_determines():
    assert adjusted(0.3, 0.3) == 0
    assert adjusted(1, 0.3) == 1
    assert adjusted(0.65, 0.3) == pytest.approx(0.5)
    assert math.isnan(adjusted(1, 1))


def test_a_choice_that_is_the_token_is_explained_wholly():
    found = beyond(TOKEN % EXPERTS, TOKEN)
    assert found.share == pytest.approx(1)
    assert 0.01 < found.chance < 0.6
    assert found.adjusted == pytest.approx(1)


def test_a_choice_that_is_the_position_is_explained_by_it_alone():
    choice = POSITION % EXPERTS
    assert beyond(choice, POSITION, within=True).adjusted == pytest.approx(1)
    assert abs(beyond(choice, TOKEN).adjusted) < 0.03


def test_a_choice_at_random_is_explained_by_nothing():
    choice = np.random.default_rng(2).integers(EXPERTS, size=len(TOKEN))
    for label, within in ((TOKEN, False), (POSITION, True), (WINDOW % 3, False)):
        found = beyond(choice, label, within=within)
        assert abs(found.adjusted) < 0.02
    assert beyond(choice, TOKEN).share > 0.1  # without the correction it would seem to depend


def test_tokens_of_a_window_that_belong_together_do_not_make_chance_look_small():
    topic = np.random.default_rng(3).integers(EXPERTS, size=WINDOWS)[WINDOW]
    label = np.random.default_rng(4).integers(EXPERTS, size=WINDOWS)[WINDOW]
    assert abs(beyond(topic, label).adjusted) < 0.1  # of 64 independent windows, not of 2048 tokens
    assert beyond(topic, label).chance > 0.1
    assert beyond(topic, topic).adjusted == pytest.approx(1)


def test_windows_may_differ_in_length_and_there_may_be_one():
    window = np.repeat([0, 1, 2], [5, 1, 20])
    label = np.arange(26) % 3
    found = explained_beyond_chance(label, label, window, np.random.default_rng(0))
    assert found.adjusted == pytest.approx(1)
    found = explained_beyond_chance(label, label, np.zeros(26, int), np.random.default_rng(0))
    assert found.chance < 0.4
    assert found.adjusted == pytest.approx(1)


def test_labels_that_occur_once_say_nothing():
    found = beyond(TOKEN % EXPERTS, np.arange(len(TOKEN)))
    assert (found.share, found.chance) == (pytest.approx(1), pytest.approx(1))
    assert math.isnan(found.adjusted)
