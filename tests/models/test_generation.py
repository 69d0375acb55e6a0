import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.models import ModelConfig, Transformer, generate
from moe_numpy.models.generation import draw, sampling_probabilities

CONFIG = ModelConfig(
    vocab_size=11,
    d_model=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    context=6,
    d_ff=6,
    num_experts=3,
)


def model():
    return Transformer(CONFIG, rng=np.random.default_rng(0), dtype=np.float64)


def test_temperature_sharpens_and_zero_is_greedy_with_ties_to_the_lowest():
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    np.testing.assert_allclose(sampling_probabilities(logits), [0.5, 0.3, 0.2], rtol=1e-6)
    np.testing.assert_allclose(sampling_probabilities(logits, 0.5), np.array([25, 9, 4]) / 38, rtol=1e-6)
    assert sampling_probabilities(np.array([1.0, 2.0, 2.0]), 0).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(1.0, [0.2, 0.5, 0.3]), (0.8, [0, 0.625, 0.375]), (0.81, [0.2, 0.5, 0.3]), (0.1, [0, 1, 0])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, expected):
    logits = np.log(np.array([0.2, 0.5, 0.3]))
    p = sampling_probabilities(logits, top_p=top_p - 1e-12 if top_p < 1 else 1.0)
    np.testing.assert_allclose(p, expected, rtol=1e-6)


@given(
    logits=st.lists(st.integers(-4, 4), min_size=1, max_size=30),
    top_p=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_top_p_by_the_order_of_tokens_and_draws_by_choice(logits, top_p, seed):
    """Ties too: of tokens that are equally probable the first ones stay."""
    logits = np.array(logits, np.float32)
    expected = sampling_probabilities(logits)
    order = np.argsort(-expected, kind="stable")
    before = np.cumsum(expected[order]) - expected[order]
    expected[order[before >= top_p]] = 0
    p = sampling_probabilities(logits, top_p=top_p)
    np.testing.assert_array_equal(p, expected / expected.sum())
    token = draw(logits, 1.0, top_p, np.random.default_rng(seed))
    assert token == np.random.default_rng(seed).choice(len(p), p=p)
    assert draw(logits, 0, top_p, np.random.default_rng(seed)) == logits.argmax()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must not be negative, got -1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        sampling_probabilities(np.zeros(3), **settings)
    with pytest.raises(ValueError, match=message):
        draw(np.zeros(3), **{"temperature": 0, "top_p": 1.0} | settings, rng=np.random.default_rng(0))


def test_greedy_text_is_what_the_model_without_a_cache_says():
    m = model()
    text = [3, 1]
    written = list(generate(m, np.array(text), 4, rng=np.random.default_rng(0), temperature=0))
    for token in written:
        assert token == m(np.array([text])).logits.data[0, -1].argmax()
        text.append(token)


def test_text_goes_on_beyond_the_context_and_beyond_a_long_prompt():
    m = model()
    long = list(generate(m, np.arange(10), 20, rng=np.random.default_rng(0)))
    assert len(long) == 20
    again = list(generate(m, np.arange(10), 20, rng=np.random.default_rng(0)))
    assert long == again
    full = list(generate(m, np.arange(6), 1, rng=np.random.default_rng(0), temperature=0))
    assert full == [m(np.arange(6)[None]).logits.data[0, -1].argmax()]


def test_the_mode_of_the_model_is_left_as_it_was():
    m = model()
    stream = generate(m, np.array([1]), 3, rng=np.random.default_rng(0))
    next(stream)
    assert not m.training
    stream.close()
    assert m.training


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="the prompt is empty"):
        next(generate(model(), np.array([], int), 1, rng=np.random.default_rng(0)))
