"""What the decoder writes is what the model writes; guesses change the number of calls, not the text."""

import numpy as np
import pytest

from moe_numpy.autodiff import NonFiniteError
from moe_numpy.inference import Decoder, Guesses, write
from moe_numpy.models import ModelConfig, Transformer, generate


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


@pytest.mark.parametrize("settings", [{"temperature": 0}, {}, {"temperature": 1.5, "top_p": 0.7}])
@pytest.mark.parametrize("length", [1, 5, 24, 60])
def test_the_text_is_that_of_the_model_beyond_its_context_too(model, settings, length):
    prompt = np.random.default_rng(length).integers(0, 12, length)
    expected = list(generate(model, prompt, 40, rng=rng(), **settings))
    assert list(write(Decoder(model), prompt, 40, rng=rng(), **settings)) == expected


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


def test_what_cannot_be_continued_is_named(model):
    with pytest.raises(ValueError, match="the prompt is empty"):
        next(write(Decoder(model), np.array([], np.int64), 3, rng=rng()))
    with pytest.raises(ValueError, match=r"guesses are for temperature 0, got 0\.8"):
        next(write(Decoder(model), np.array([1]), 3, rng=rng(), guess=2))


def test_a_logit_that_is_no_number_is_named(model):
    broken = Decoder(model)
    broken.norm.weight[...] = np.nan
    with pytest.raises(NonFiniteError):
        next(write(broken, np.array([1]), 3, rng=rng()))
