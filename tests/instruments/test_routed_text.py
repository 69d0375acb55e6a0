from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.instruments.routed_text import TextWindow, route_text, shares
from moe_numpy.instruments.routing_report import route_sentence
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.training.corpus import Windows
from moe_numpy.training.evaluation import evaluate

SPARSE = ModelConfig(
    d_model=8, num_layers=3, num_heads=2, num_kv_heads=1, context=12, d_ff=4, num_experts=4, moe_every=2
)
RECIPES = {
    "mixtral": {},
    "switch": {"capacity_factor": 0.5},
    "expert_choice": {},
    "gshard": {"capacity_factor": 0.6},
    "deepseek_v3": {"num_groups": 2, "top_groups": 1, "top_k": 2},
    "hash": {},
}


def model_of(recipe="mixtral", **settings):
    config = replace(SPARSE, recipe=recipe, recipe_settings=settings)
    return Transformer(config, rng=np.random.default_rng(0))


def windows_of(*lengths, lead=0):
    rng = np.random.default_rng(1)
    return [TextWindow(rng.integers(256, size=n), i % 2, lead) for i, n in enumerate(lengths)]


def triples(routed, layer):
    """(window, position, expert) of every choice."""
    c = routed.choices[layer]
    return set(zip(routed.window[c.token].tolist(), routed.position[c.token].tolist(), c.expert.tolist(), strict=True))


@pytest.mark.parametrize(("recipe", "settings"), RECIPES.items())
def test_counts_are_those_of_an_evaluation(recipe, settings):
    model = model_of(recipe, **settings)
    windows = windows_of(12, 12, 12, 12)
    tokens = np.stack([w.ids for w in windows])
    expected = evaluate(model, Windows(tokens, tokens, np.array([0, 1, 0, 1])), 2, batch_size=3)
    routed = route_text(model, windows, 3)
    np.testing.assert_array_equal(routed.counts(routed.domain, 2), expected.assignments.sum(axis=2))
    np.testing.assert_array_equal(routed.counts(routed.ids, 256), expected.assignments.sum(axis=1))
    np.testing.assert_array_equal(routed.dropped, expected.dropped)
    np.testing.assert_array_equal(shares(routed.load), expected.expert_load)
    assert routed.layers == (0, 2)


def test_every_token_is_there_once_with_its_neighbour_and_place():
    routed = route_text(model_of(), windows_of(5, 12, 1), 2)
    assert len(routed) == 18
    assert routed.position.tolist() == [*range(5), *range(12), 0]
    assert routed.window.tolist() == [0] * 5 + [1] * 12 + [2]
    assert routed.domain.tolist() == [0] * 5 + [1] * 12 + [0]
    assert routed.before[[0, 5, 17]].tolist() == [-1, -1, -1]
    np.testing.assert_array_equal(routed.before[1:5], routed.ids[:4])
    for choices in routed.choices:
        np.testing.assert_array_equal(np.bincount(choices.token), 2)


def test_padding_is_not_routed_and_batches_do_not_matter():
    windows = windows_of(5, 12, 1, 7)
    together, alone = (route_text(model_of(), windows, size) for size in (4, 1))
    for layer in range(2):
        assert triples(together, layer) == triples(alone, layer)
        np.testing.assert_array_equal(together.choices[layer].first, alone.choices[layer].first)


def test_the_first_choice_has_the_largest_gate_weight():
    model, (window,) = model_of(), windows_of(10)
    sentence = route_sentence(model, window.ids.tolist())
    routed = route_text(model, [window], 1)
    np.testing.assert_array_equal(np.stack([c.first for c in routed.choices]), sentence.first_choice)


def test_a_token_that_nothing_is_chosen_for_has_no_first_choice():
    routed = route_text(model_of("expert_choice", capacity_factor=0.5), windows_of(12), 1)
    unchosen = np.setdiff1d(np.arange(12), routed.choices[0].token)
    assert len(unchosen) > 0
    assert (routed.choices[0].first[unchosen] == -1).all()


def test_what_begins_a_window_is_read_and_not_counted():
    whole, led = windows_of(12, 6), windows_of(12, 6, lead=2)
    model = model_of()
    everything, text = route_text(model, whole, 2), route_text(model, led, 2)
    assert len(text) == 14
    assert text.position.tolist() == [*range(2, 12), *range(2, 6)]
    assert text.before[0] == whole[0].ids[1]
    for layer in range(2):
        assert triples(text, layer) == {t for t in triples(everything, layer) if t[1] >= 2}


def test_progress_counts_tokens():
    told = []
    model = model_of()
    route_text(model, windows_of(5, 12, 1, lead=1), 2, told.append)
    assert told == [15, 15]
    assert model.training


def test_refusals():
    with pytest.raises(ValueError, match="no text"):
        route_text(model_of(), [], 1)
    with pytest.raises(ValueError, match="dense"):
        route_text(Transformer(SPARSE.dense_twin(), rng=np.random.default_rng(0)), windows_of(3), 1)
