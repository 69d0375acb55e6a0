"""The decoder tells which experts tokens chose, and can be told to choose others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.inference import Decoder, Interventions, intervened
from moe_numpy.instruments.routing_report import route_sentence
from moe_numpy.models import ModelConfig, Transformer

SIZES = {"vocab_size": 50, "d_model": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "d_ff": 8, "context": 40}
IDS = np.random.default_rng(1).integers(0, 50, 20)


def model_of(recipe, **changed):
    config = ModelConfig(**SIZES | {"num_experts": 8, "recipe": recipe} | changed)
    return Transformer(config, rng=np.random.default_rng(0)).eval()


def read(decoder, ids=IDS, ends=()):
    """Logits and choices of every token, read in pieces."""
    sequence, choices = decoder.new_sequence(), []
    pieces = np.split(ids, ends)
    logits = [decoder.read((sequence, piece), every=True, choices={sequence: choices}) for piece in pieces]
    return np.concatenate(logits), choices


def experts(choices, layer):
    return [set(each[layer][0].tolist()) for each in choices]


@pytest.mark.parametrize("recipe", ["mixtral", "deepseek_v3", "remoe", "longcat", "llama4"])
def test_choices_are_those_of_the_model(recipe):
    model = model_of(recipe)
    expected = route_sentence(model, IDS.tolist())
    _, choices = read(Decoder(model), ends=(7, 8))
    gate = np.zeros_like(expected.gate)
    for n, of in enumerate(choices):
        for i, layer in enumerate(expected.layers):
            gate[i, n, of[layer][0]] = of[layer][1]
    np.testing.assert_allclose(gate, expected.gate, rtol=1e-4, atol=1e-5)


def test_only_of_the_texts_that_want_them():
    decoder = Decoder(model_of("mixtral"))
    first, second, choices = decoder.new_sequence(), decoder.new_sequence(), []
    decoder.read((first, IDS[:3]), (second, IDS[3:8]), choices={second: choices})
    assert len(choices) == 5
    assert experts(choices, 1) == experts(read(decoder, IDS[3:8])[1], 1)


def test_dense_layers_have_none():
    decoder = Decoder(model_of("mixtral", moe_every=2))
    assert decoder.routed_layers == [1]
    assert read(decoder)[1][0].keys() == {1}


@settings(max_examples=5, deadline=None)
@given(off=st.sets(st.integers(0, 7), max_size=6), position=st.integers(0, 19), end=st.sampled_from([1, 10]))
def test_experts_that_are_off_and_tokens_that_are_pinned(off, position, end):
    decoder = Decoder(_MIXTRAL)
    pin = min(set(range(8)) - off)
    told = Interventions(off={1: frozenset(off)}, pinned={1: {position: pin}})
    before = read(decoder)
    logits, choices = read(intervened(decoder, told), ends=(end,))
    assert not set().union(*experts(choices, 1)) & off
    assert choices[position][1][0][0] == pin
    assert experts(choices, 0) == experts(before[1], 0)
    for choice in choices:
        np.testing.assert_allclose(choice[1][1].sum(), 1, rtol=1e-5)  # renormalised
    after = read(decoder)
    assert np.array_equal(after[0], before[0])  # nothing has changed for others
    assert np.array_equal(logits, read(intervened(decoder, told))[0])


_MIXTRAL = model_of("mixtral")


def test_another_top_k_and_nothing_told():
    decoder = Decoder(_MIXTRAL)
    logits, choices = read(intervened(decoder, Interventions(top_k={0: 5, 1: 1})))
    assert all(len(of[0][0]) == 5 and len(of[1][0]) == 1 for of in choices)
    assert not np.array_equal(logits, read(decoder)[0])
    same = intervened(decoder, Interventions(top_k={0: 2}, off={1: frozenset()}))
    np.testing.assert_allclose(read(same)[0], read(decoder)[0], rtol=1e-4, atol=1e-5)
    assert not Interventions()
    assert Interventions(top_k={0: 1})


@pytest.mark.parametrize(
    ("recipe", "told", "message"),
    [
        ("mixtral", {"off": {5: {1}}}, r"layer 5 has no router; layers with one: \[0, 1\]"),
        ("mixtral", {"off": {1: {8}}}, "layer 1: experts are 0 to 7, got 8"),
        ("mixtral", {"off": {1: set(range(7))}}, "layer 1: top_k must be from 1 to the 1 experts that are left, got 2"),
        ("mixtral", {"top_k": {1: 9}}, "layer 1: top_k must be from 1 to the 8 experts that are left, got 9"),
        ("mixtral", {"off": {1: {3}}, "pinned": {1: {0: 3}}}, "layer 1: expert 3 is switched off"),
        ("hash", {"off": {1: {3}}}, "layer 1: its router does not choose by scores, but hash"),
        ("remoe", {"top_k": {1: 1}}, "layer 1: top_k cannot be changed"),
        ("deepseek_v3", {"top_k": {1: 7}}, "layer 1: top_k must be at most"),
    ],
)
def test_what_cannot_be_told(recipe, told, message):
    off = {i: frozenset(experts) for i, experts in told.get("off", {}).items()}
    with pytest.raises(ValueError, match=message):
        intervened(Decoder(model_of(recipe)), Interventions(**told | {"off": off}))


def test_too_few_experts_in_the_groups_of_a_token():
    decoder = Decoder(model_of("deepseek_v3"))
    told = Interventions(off={1: frozenset({0, 2, 4, 6})}, top_k={1: 4})  # 2 of 4 groups, with 1 expert left in each
    with pytest.raises(ValueError, match="too few experts are left in the groups that a token chose"):
        read(intervened(decoder, told))
