"""The decoder says what the model says, whatever the company and however a text is cut into calls."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_models import DEEPSEEK, LLAMA, MINIMAX, MIXTRAL, make_published

from moe_numpy import kernels
from moe_numpy.autodiff import no_grad
from moe_numpy.inference import Decoder
from moe_numpy.inference.sequence import Kept
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.models.transformer_config import Dense, Heads, Layer, Sparse, TransformerConfig
from moe_numpy.moe import recipes
from moe_numpy.nn.attention import AttentionParts, QueryKeyNorm, Temperature
from moe_numpy.nn.rotary import Rotary

SIZES = {"vocab_size": 50, "d_model": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_ff": 8}


def run_of(recipe, **changed):
    """A model of ours."""
    config = ModelConfig(**SIZES | {"context": 40, "num_experts": 8, "recipe": recipe} | changed)
    return Transformer(config, rng=np.random.default_rng(0)).eval()


def of_parts(parts, **changed):
    """A model with one dense and one sparse layer, whose attention has these parts."""
    heads = Heads(4, 2, 8, parts)
    sparse = Sparse(recipes.mixtral(), 8, 8)
    layers = (Layer(heads, Dense(24)), Layer(heads, sparse))
    return Transformer(TransformerConfig(50, 16, 40, layers, **changed), rng=np.random.default_rng(0)).eval()


def ids(n=40, vocabulary=50):
    return np.random.default_rng(1).integers(0, vocabulary, n)


def whole(model, tokens):
    """The logits of every position, read at once by the modules of training."""
    with no_grad():
        return model(tokens[None]).logits.data[0]


def piecewise(decoder, tokens, *ends):
    """The logits of every position, read in pieces."""
    sequence, starts = decoder.new_sequence(), (0, *ends)
    pieces = [tokens[a:b] for a, b in zip(starts, (*ends, len(tokens)), strict=True)]
    return np.concatenate([decoder.read((sequence, piece), every=True) for piece in pieces])


def assert_says_the_same(model, tokens):
    expected = whole(model, tokens)
    for ends in ((), (1, 2, 3), (17, 18, 30), range(1, len(tokens))):
        np.testing.assert_allclose(piecewise(Decoder(model), tokens, *ends), expected, rtol=1e-4, atol=1e-5)


CAUSAL = [
    name
    for name, recipe in recipes.RECIPES.items()
    if recipe().router is not None and recipe().router.selection.causal and not recipe().groups
    and recipe().router.capacity is None
]  # fmt: skip


@pytest.mark.parametrize("recipe", CAUSAL)
def test_every_causal_recipe(recipe):
    assert_says_the_same(run_of(recipe), ids())


def test_there_are_many_causal_recipes():
    assert {"mixtral", "deepseek_v3", "gpt_oss", "hash", "llama4", "longcat", "remoe"} <= set(CAUSAL)


@pytest.mark.parametrize("recipe", ["expert_choice", "soft_moe", "hierarchical", "mixture_of_depths"])
def test_layers_that_are_not_decoded_row_by_row_are_refused(recipe):
    with pytest.raises(ValueError, match="cannot be decoded row by row"):
        Decoder(run_of(recipe))


def test_nothing_is_dropped():
    """As if there were room for all."""
    tight, roomy = (run_of("switch", recipe_settings={"eval_capacity_factor": factor}) for factor in (0.5, 8.0))
    np.testing.assert_allclose(piecewise(Decoder(tight), ids()), whole(roomy, ids()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "parts",
    [
        AttentionParts(window=7),
        AttentionParts(chunk=6),
        AttentionParts(window=9, chunk=16, sinks=True),
        AttentionParts(bias=True, output_bias=True, clip=0.5),
        AttentionParts(norm=QueryKeyNorm("width")),
        AttentionParts(norm=QueryKeyNorm("head", after_rotation=True, weighted=False)),
        AttentionParts(rotary=None, scale=0.3, temperature=Temperature(0.4, 8)),
        AttentionParts(rotary=Rotary(width=4, pairing="neighbours")),
    ],
)
def test_every_part_of_attention(parts):
    assert_says_the_same(of_parts(parts), ids())


def test_multipliers_and_norms_after_the_parts():
    settings = {"norm_first": False, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logit_divisor": 2.0}
    assert_says_the_same(of_parts(AttentionParts(), tied=True, **settings), ids())


@pytest.mark.parametrize("values", [MIXTRAL, LLAMA, DEEPSEEK, MINIMAX], ids=lambda values: values["model_type"])
def test_published_models(values, tmp_path):
    model = Transformer.from_pretrained(make_published(tmp_path, values))
    assert_says_the_same(model, ids(40, 300))


@settings(max_examples=15, deadline=None)
@given(data=st.data(), name=st.sampled_from(["float32", "bfloat16", "int8", "int4", "mxfp4", "fp8"]))
def test_the_same_bits_in_any_company(data, name):
    """However a text is cut into calls, and whoever shares them."""
    decoder, tokens = decoders(name), ids()
    alone = piecewise(decoder, tokens, *range(1, len(tokens)))
    text, at = decoder.new_sequence(), 0
    others = [(decoder.new_sequence(), np.random.default_rng(i).integers(0, 50, 40)) for i in range(3)]
    while at < len(tokens):
        end = min(at + data.draw(st.integers(1, 12)), len(tokens))
        company = []
        for other, theirs in others:
            piece = theirs[other.length : other.length + data.draw(st.integers(0, 5))]
            if len(piece):
                company.append((other, piece))
        place = data.draw(st.integers(0, len(company)))
        company.insert(place, (text, tokens[at:end]))
        np.testing.assert_array_equal(decoder.read(*company)[place], alone[end - 1])
        at = end


@cache
def decoders(name):
    """A model with dense, sparse and shared parts."""
    heads = Heads(4, 2, 8, AttentionParts(norm=QueryKeyNorm("head"), window=11))
    sparse = Sparse(recipes.deepseek_v3(top_k=3, num_groups=2, top_groups=1), 32, 8)
    config = TransformerConfig(50, 32, 40, (Layer(heads, Dense(64)), Layer(heads, sparse)))
    return Decoder(Transformer(config, rng=np.random.default_rng(0)).eval(), name, name)


def test_a_window_forgets_what_nobody_will_see():
    decoder = Decoder(of_parts(AttentionParts(window=7)))
    kept = Kept(3, window=7)
    for i in range(3000):
        rows = kept.append(np.full((1, 3), i, np.float32))
        assert rows[-1, 0] == i
        assert kept.start + len(rows) == i + 1
        assert len(rows) >= min(i + 1, 8)
    assert kept._room.shape[0] <= 512
    assert decoder.new_sequence().nbytes == 2 * 2 * 256 * 16 * 4


def test_texts_can_be_unread_and_copied():
    decoder, tokens = Decoder(run_of("mixtral")), ids()
    text = decoder.new_sequence()
    decoder.read((text, tokens[:20]))
    branch = text.copy()
    after = decoder.read((text, tokens[20:30]))
    text.cut(20)
    np.testing.assert_array_equal(decoder.read((text, tokens[20:30])), after)
    np.testing.assert_array_equal(decoder.read((branch, tokens[20:30])), after)
    with pytest.raises(ValueError, match="length must be from 0 to 30, got 31"):
        text.cut(31)


def test_a_window_that_forgot_too_much_cannot_be_unread():
    kept = Kept(3, window=4)
    for _ in range(600):
        kept.append(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="position 100 is too far back: tokens before"):
        kept.cut(100)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "there must be at least one text"),
        ([[]], "each must have at least one new token"),
        ([[1, 50]], "token ids must be at least 0 and below vocab_size=50, got 50"),
        ([[-1]], "token ids must be at least 0 and below vocab_size=50, got -1"),
        ([[1] * 41], "41 tokens do not fit context=40"),
    ],
)
def test_what_cannot_be_read_is_named(texts, message):
    decoder = Decoder(run_of("mixtral"))
    with pytest.raises(ValueError, match=message):
        decoder.read(*[(decoder.new_sequence(), np.array(text, np.int64)) for text in texts])


def test_a_call_that_fails_leaves_every_text_as_it_was(monkeypatch):
    decoder, tokens, failing = Decoder(run_of("mixtral")), ids(), []
    last = decoder.layers[1].feed_forward
    as_before = last.add_to

    def add_to(program, x):
        program.call(lambda: 1 / 0 if failing else None)
        return as_before(program, x)

    monkeypatch.setattr(last, "add_to", add_to)
    text = decoder.new_sequence()
    decoder.read((text, tokens[:9]))
    failing.append(True)
    with pytest.raises(ZeroDivisionError):
        decoder.read((text, tokens[9:20]))
    failing.clear()
    expected = piecewise(Decoder(run_of("mixtral")), tokens[:20])[-1]
    np.testing.assert_array_equal(decoder.read((text, tokens[9:20]))[0], expected)
    with pytest.raises(ValueError, match="a text can be given once in a call"):
        decoder.read((text, tokens[20:21]), (text, tokens[21:22]))


def test_where_nothing_is_compiled():
    """The definitions of a program say the same."""
    model, tokens = of_parts(AttentionParts(norm=QueryKeyNorm("head"), window=9)), ids()
    with kernels.use("numpy"):
        defined = piecewise(Decoder(model), tokens, 17, 18)
    np.testing.assert_allclose(piecewise(Decoder(model), tokens, 17, 18), defined, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("values", [MIXTRAL, DEEPSEEK], ids=lambda values: values["model_type"])
def test_experts_on_the_disk_say_the_same_bits(values, tmp_path):
    """As the mapped ones, and as those in memory in their format."""
    folder, tokens = make_published(tmp_path, values), ids(40, 300)
    mapped = Decoder(Transformer.from_pretrained(folder))
    expected = piecewise(mapped, tokens, 17, 18, 30)
    few = Decoder(Transformer.from_pretrained(folder, memory=2**20))
    np.testing.assert_array_equal(piecewise(few, tokens, 17, 18, 30), expected)
