"""A text that begins like another one is not read again, and nobody can tell from the answers."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_models import DEEPSEEK, make_published

from moe_numpy.inference import Decoder, PrefixCache, write
from moe_numpy.inference.prefix_cache import BLOCK
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.models.transformer_config import Heads, Layer, Sparse, TransformerConfig
from moe_numpy.moe import recipes
from moe_numpy.nn.attention import AttentionParts

CONTEXT = 1000


@cache
def windowed():
    """One layer sees 40 tokens, the other all."""
    parts = (AttentionParts(window=40), AttentionParts())
    layers = tuple(Layer(Heads(2, 1, 4, of), Sparse(recipes.mixtral(), 8, 4)) for of in parts)
    return Decoder(Transformer(TransformerConfig(12, 8, CONTEXT, layers), rng=np.random.default_rng(0)).eval())


@cache
def plain():
    config = ModelConfig(vocab_size=12, d_model=8, num_layers=2, num_heads=2, num_kv_heads=1, d_ff=8, context=CONTEXT)
    return Decoder(Transformer(config, rng=np.random.default_rng(0)).eval())


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    folder = make_published(tmp_path_factory.mktemp("latent"), DEEPSEEK, max_position_embeddings=CONTEXT)
    return Decoder(Transformer.from_pretrained(folder))


def ids(n, seed=0):
    return np.random.default_rng(seed).integers(0, 12, n)


def token_bytes(decoder):
    """What one token takes."""
    return sum(kept.rows[:0].shape[1] * 4 for layer in decoder.new_sequence().layers for kept in layer)


def alone(decoder, tokens):
    return decoder.read((decoder.new_sequence(), tokens))


@settings(max_examples=5, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["plain", "windowed", "latent"])
def test_answers_are_the_same_bits_with_and_without(kind, data, latent):
    decoder = {"plain": plain, "windowed": windowed, "latent": lambda: latent}[kind]()
    known = PrefixCache(decoder, data.draw(st.integers(0, 30)) * BLOCK * token_bytes(decoder))
    stems = [ids(100, seed) for seed in range(3)]
    for _ in range(data.draw(st.integers(2, 5))):
        stem = stems[data.draw(st.integers(0, 2))][: data.draw(st.integers(0, 100))]
        tokens = np.concatenate([stem, ids(data.draw(st.integers(1, 40)), data.draw(st.integers(3, 5)))])
        sequence, logits = known.read(tokens)
        expected = decoder.new_sequence()
        np.testing.assert_array_equal(logits, decoder.read((expected, tokens)))
        more = ids(data.draw(st.integers(1, 20)), 9)  # what follows belongs to this text alone
        after = decoder.read((sequence, more), every=True)
        np.testing.assert_array_equal(after, decoder.read((expected, more), every=True))
        known.keep(sequence, np.concatenate([tokens, more]))
        assert known.nbytes <= known.memory
        assert known.nbytes == sum(
            rows.nbytes for block in known._blocks.values() for rows in block.rows if rows is not None
        )


def test_only_what_differs_is_read():
    known = PrefixCache(plain(), 10**6)
    tokens = ids(100)
    known.read(tokens)
    assert known.counts.reused == 0
    assert known.begin(tokens).length == 6 * BLOCK  # the last tokens give logits
    assert known.begin(tokens[: 4 * BLOCK]).length == 3 * BLOCK
    assert known.begin(tokens[: 4 * BLOCK + 1]).length == 4 * BLOCK
    other = tokens.copy()
    other[2 * BLOCK + 3] += 1
    assert known.begin(other).length == 2 * BLOCK
    assert known.begin(ids(100, 1)).length == 0
    assert known.begin(np.roll(tokens, -BLOCK)).length == 0  # the same tokens elsewhere are other vectors
    assert str(known.counts) == f"reused {known.counts.reused:,} of {known.counts.tokens:,} tokens"
    assert known.counts.reused == 15 * BLOCK


def test_a_common_beginning_is_kept_once():
    known, tokens = PrefixCache(plain(), 10**6), ids(10 * BLOCK)
    for i in range(5):
        known.read(np.concatenate([tokens, ids(BLOCK, i + 1)]))
    assert known.nbytes == 15 * BLOCK * token_bytes(plain())


def test_the_end_of_what_is_oldest_leaves_first():
    known = PrefixCache(plain(), 8 * BLOCK * token_bytes(plain()))
    texts = [ids(4 * BLOCK + 1, seed) for seed in range(3)]
    known.read(texts[0])
    known.read(texts[1])
    known.begin(texts[0])
    known.read(texts[2][: BLOCK + 1])
    assert [known.begin(text).length for text in texts] == [4 * BLOCK, 3 * BLOCK, BLOCK]
    known.read(ids(20 * BLOCK, 7))  # longer than what there is room for
    assert [known.begin(text).length for text in texts] == [0, 0, 0]
    assert known.begin(ids(20 * BLOCK, 7)).length == 8 * BLOCK


def test_a_long_text_of_windows_is_reused_wherever_it_is_left():
    known, tokens = PrefixCache(windowed(), 10**7), ids(900)
    known.read(tokens)
    for length in (900, 700, 300):
        other = np.concatenate([tokens[: length - 5], ids(5, 1)])
        logits = known.read(other)[1]
        assert known.counts.reused > 0
        np.testing.assert_array_equal(logits, alone(windowed(), other))
        known.counts.reused = 0


def test_what_windows_forgot_is_read_again_and_then_known():
    known, tokens, decoder = PrefixCache(windowed(), 10**7), ids(900), windowed()
    sequence = decoder.new_sequence()
    decoder.read((sequence, tokens))
    known.keep(sequence, tokens)
    before = known.nbytes
    other = np.concatenate([tokens[:300], ids(5, 1)])
    assert known.begin(other).length == 0
    assert known.begin(tokens).length > 800
    np.testing.assert_array_equal(known.read(other)[1], alone(decoder, other))
    assert known.nbytes > before
    assert known.begin(other).length == 304


def test_writing_learns_the_prompt_and_the_answer():
    decoder, prompt = plain(), ids(50)

    def text(**how):
        rng = np.random.default_rng(3)
        return list(write(decoder, prompt, 60, rng=rng, **how))

    for how in ({}, {"temperature": 0, "guess": 5}):
        known, expected = PrefixCache(decoder, 10**6), text(**how)
        assert text(**how, cache=known) == expected
        assert known.counts.reused == 0
        assert text(**how, cache=known) == expected
        assert known.counts.reused == 3 * BLOCK
        conversation = np.concatenate([prompt, expected, ids(5, 1)])
        assert known.begin(conversation).length == (len(conversation) - 6) // BLOCK * BLOCK


def test_who_stops_listening_among_guesses_leaves_no_guess_behind():
    decoder, prompt = plain(), np.array([1, 2, 3] * 20)
    full = list(write(decoder, prompt, 40, rng=np.random.default_rng(0), temperature=0))
    whole = np.concatenate([prompt, full, [0]])
    expected = alone(decoder, whole)
    for count in range(1, 40, 5):
        known = PrefixCache(decoder, 10**6)
        text = write(decoder, prompt, 40, rng=np.random.default_rng(0), temperature=0, guess=8, cache=known)
        for _ in range(count):
            next(text)
        text.close()
        np.testing.assert_array_equal(known.read(whole)[1], expected)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="memory must not be negative, got -1"):
        PrefixCache(plain(), -1)
    known = PrefixCache(plain(), 10**6)
    sequence, _ = known.read(ids(30))
    with pytest.raises(ValueError, match="the text has read 30 tokens, got 29"):
        known.keep(sequence, ids(29))
    with pytest.raises(ValueError, match="the cache is that of another decoder"):
        next(write(windowed(), ids(3), 3, rng=np.random.default_rng(0), cache=known))
