"""What the decoder writes is what the model writes; guesses change the number of calls, not the text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import NonFiniteError
from moe_numpy.inference import Decoder, Guesses, PromptLookup, write
from moe_numpy.inference.sequence import Sequence
from moe_numpy.models import ModelConfig, Transformer, generate
from moe_numpy.models.transformer_config import Dense, Heads, Layer, TransformerConfig
from moe_numpy.nn.attention import AttentionParts
from moe_numpy.nn.rotary import LongRoPE, Rotary


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        vocab_size=12, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, context=24, d_ff=8, num_experts=4
    )
    model = Transformer(config, rng=np.random.default_rng(0)).eval()
    model.output.weight.data *= 20  # so that greedy text repeats itself
    return model


def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("how", [{"temperature": 0}, {}, {"temperature": 1.5, "top_p": 0.7}])
@pytest.mark.parametrize("length", [1, 5, 24, 60])
def test_the_text_is_that_of_the_model_beyond_its_context_too(model, how, length):
    prompt = np.random.default_rng(length).integers(0, 12, length)
    expected = list(generate(model, prompt, 40, rng=rng(), **how))
    assert list(write(Decoder(model), prompt, 40, rng=rng(), **how)) == expected


@pytest.mark.parametrize("guess", [1, 3, 8, 100])
def test_guesses_save_calls_and_change_nothing(model, guess):
    prompt, counted = np.array([1, 2, 3, 1, 2, 3, 1]), Guesses()
    plain = list(write(Decoder(model), prompt, 60, rng=rng(), temperature=0))
    assert list(write(Decoder(model), prompt, 60, rng=rng(), temperature=0, guess=guess, guesses=counted)) == plain
    assert counted.right > 0
    assert counted.calls == 60 - counted.right
    assert counted.right <= counted.guessed


def test_it_ends_before_an_end(model):
    prompt = np.array([1, 2])
    text = list(write(Decoder(model), prompt, 30, rng=rng(), temperature=0))
    end = text[7]
    expected = text[: text.index(end)]
    for guess in (0, 4):
        assert list(write(Decoder(model), prompt, 30, rng=rng(), temperature=0, end_ids=[end], guess=guess)) == expected


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_guesses_of_any_length_change_nothing_wherever_the_text_ends(model, data):
    """At the end of the context, before tokens that end it, and with more guesses than are left."""
    decoder = Decoder(model)
    prompt = np.tile(data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=9)), data.draw(st.integers(1, 4)))
    count, guess = data.draw(st.integers(0, 45)), data.draw(st.integers(1, 30))
    plain = list(write(decoder, prompt, count, rng=rng(), temperature=0))
    ends = data.draw(st.sets(st.integers(0, 11), max_size=1))
    expected = plain[: next((i for i, token in enumerate(plain) if token in ends), count)]
    text = write(decoder, prompt, count, rng=rng(), temperature=0, guess=guess, end_ids=ends)
    assert list(text) == expected


def test_logits_of_the_prompt_are_those_of_its_last_token(model):
    """Of a long prompt all of them would take gigabytes."""
    decoder, said = Decoder(model), []
    read = decoder.read
    decoder.read = lambda text, **how: said.append(read(text, **how)) or said[-1]
    list(write(decoder, np.array([1, 2, 3] * 7), 3, rng=rng(), temperature=0, guess=8))
    assert len(said[0]) == 1
    assert max(map(len, said)) <= 2  # no more guesses than tokens that are left


def test_how_many_are_guessed_depends_on_how_many_were_right(model):
    """The model writes a text that repeats itself, and then something new."""
    written = [1, 2, 3] * 5 + [4, 1, 2, 5, 6, 7]
    decoder, guessed = Decoder(model), []

    def read(text, every=False):
        sequence, tokens = text
        begin, sequence.length = sequence.length, sequence.length + len(tokens)
        guessed.append(len(tokens) - 1)
        rows = range(begin, sequence.length) if every else [sequence.length - 1]
        return np.eye(12, dtype=np.float32)[[written[(row + 1) % len(written)] for row in rows]]

    decoder.read = read
    decoder.new_sequence = lambda: Sequence([])
    prompt = np.array(written[:4])
    assert list(write(decoder, prompt, 17, rng=rng(), temperature=0, guess=6)) == written[4:]
    assert guessed == [3, 1, 3, 6, 0, 1, 0, 0]  # none where the last token is new


def test_guesses_where_frequencies_depend_on_the_length_of_the_text():
    """A text that grows beyond the original context of LongRoPE."""
    scaling = LongRoPE(20, (1.0,) * 4, (4.0, 2.0, 3.0, 8.0), 1.0, 1.2)
    layer = Layer(Heads(4, 2, 8, AttentionParts(rotary=Rotary(scaling=scaling))), Dense(24))
    model = Transformer(TransformerConfig(12, 16, 40, (layer, layer)), rng=np.random.default_rng(0)).eval()
    model.output.weight.data *= 20
    decoder, tokens = Decoder(model), np.random.default_rng(1).integers(0, 12, 40)
    one_by_one, at_once = decoder.new_sequence(), decoder.new_sequence()
    logits = [decoder.read((one_by_one, tokens[i : i + 1]))[0] for i in range(40)]
    np.testing.assert_array_equal(decoder.read((at_once, tokens), every=True), logits)
    for seed in range(10):
        prompt = np.tile(np.random.default_rng(seed).integers(0, 4, 5), 3)
        plain = list(generate(model, prompt, 20, rng=rng(), temperature=0))
        assert list(write(decoder, prompt, 20, rng=rng(), temperature=0)) == plain
        assert list(write(decoder, prompt, 20, rng=rng(), temperature=0, guess=6)) == plain


def test_a_window_that_forgets_gives_the_same_bits_in_any_chunks():
    layer = Layer(Heads(2, 1, 4, AttentionParts(window=11)), Dense(8))
    decoder = Decoder(Transformer(TransformerConfig(12, 8, 800, (layer,) * 2), rng=np.random.default_rng(0)).eval())
    tokens, said = np.random.default_rng(1).integers(0, 12, 800), []
    for chunk in (5, 16, 300):
        text = decoder.new_sequence()
        said.append([decoder.read((text, tokens[i : i + chunk]), every=True) for i in range(0, 800, chunk)])
        assert text.layers[0][0].start > 200
    for other in said[1:]:
        np.testing.assert_array_equal(np.concatenate(other), np.concatenate(said[0]))


def slow_guess(text, count):
    """From the right, place by place."""
    for words in (3, 2, 1):
        for start in range(len(text) - words - 1, -1, -1):
            if text[start : start + words] == text[len(text) - words :]:
                grown = list(text)
                for i in range(count):
                    grown.append(grown[start + words + i])
                return grown[len(text) :]
    return []


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 9))
def test_a_guess_is_what_followed_last_time(text, count):
    lookup = PromptLookup(text[: len(text) // 2])
    for token in text[len(text) // 2 :]:
        lookup.append(token)
    assert lookup.guess(count) == slow_guess(text, count)


def test_what_cannot_be_continued_is_named(model):
    with pytest.raises(ValueError, match="the prompt is empty"):
        next(write(Decoder(model), np.array([], np.int64), 3, rng=rng()))
    with pytest.raises(ValueError, match="guess must not be negative, got -1"):
        next(write(Decoder(model), np.array([1]), 3, rng=rng(), temperature=0, guess=-1))
    with pytest.raises(ValueError, match=r"guesses are for temperature 0, got 0\.8"):
        next(write(Decoder(model), np.array([1]), 3, rng=rng(), guess=2))


def test_a_logit_that_is_no_number_is_named(model):
    broken = Decoder(model)
    broken.norm.weight[...] = np.nan
    with pytest.raises(NonFiniteError):
        next(write(broken, np.array([1]), 3, rng=rng()))
