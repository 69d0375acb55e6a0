"""Threads that decode together: the same bits with any number of them, whenever they come."""

import time
from functools import cache

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from moe_numpy import autodiff, formats, kernels, ops
from moe_numpy.inference import Decoder, decoder, kept_programs
from moe_numpy.kernels import crew, decoders, programs
from moe_numpy.models import Transformer
from moe_numpy.models.transformer_config import Dense, Heads, Layer, Sparse, TransformerConfig
from moe_numpy.moe import recipes
from moe_numpy.nn.attention import AttentionParts, QueryKeyNorm


@cache
def model(recipe="mixtral"):
    """Wide enough that threads share its products."""
    heads = Heads(4, 2, 32, AttentionParts(norm=QueryKeyNorm("head")))
    sparse = Sparse(recipes.RECIPES[recipe](), 128, 8)
    config = TransformerConfig(300, 256, 600, (Layer(heads, sparse), Layer(heads, Dense(320)), Layer(heads, sparse)))
    return Transformer(config, rng=np.random.default_rng(0)).eval()


def ids(n, seed=1):
    return np.random.default_rng(seed).integers(0, 300, n)


def said(decoder, *ends):
    """Logits of the last token of each piece, read by all threads however short it is."""
    text, starts = decoder.new_sequence(), (0, *ends[:-1])
    pieces = [(text, ids(ends[-1])[a:b]) for a, b in zip(starts, ends, strict=True)]
    return [decoder.read(piece, shared_from=0)[0] for piece in pieces]


@pytest.mark.parametrize("format", formats.FORMATS)
def test_any_number_of_threads(format):
    pieces = (1, 2, 7, 77, 78)
    with threadpool_limits(1):
        alone = said(Decoder(model(), format, format), *pieces)
    for threads in (2, 8):
        with threadpool_limits(threads):
            np.testing.assert_array_equal(said(Decoder(model(), format, format), *pieces), alone)


@pytest.mark.parametrize("recipe", ["mixtral", "gpt_oss", "llama4", "olmoe"])
def test_helpers_that_come_late_or_never(recipe, monkeypatch):
    with threadpool_limits(1):
        alone = said(Decoder(model(recipe)), *range(1, 20))
    rng, on_time = np.random.default_rng(0), crew._help

    def late(*arguments):
        time.sleep(rng.exponential(2e-3))
        on_time(*arguments)

    monkeypatch.setattr(crew, "_help", late)
    with threadpool_limits(4):
        for _ in range(5):
            np.testing.assert_array_equal(said(Decoder(model(recipe)), *range(1, 20)), alone)


def test_helpers_are_called_for_work_that_is_worth_it(monkeypatch):
    """Long texts are: attention to many keys is work, too."""
    called, texts = [], Decoder(model())
    monkeypatch.setattr(crew.Crew, "_call_helpers", lambda self: called.append(True))
    text = texts.new_sequence()
    texts.read((text, ids(1)))
    work = texts._programs.of(texts._body, 1)._work
    for shared_from, expected in ((work + 20_000, 0), (work, 1)):
        texts.read((text, ids(1)), shared_from=shared_from)
        assert len(called) == expected
    called.clear()
    texts.read((text, ids(500)), shared_from=1 << 40)
    texts.read((text, ids(1)), shared_from=work + 20_000)
    assert called


def test_a_crew_that_cannot_begin_sends_its_helpers_away(monkeypatch):
    class Full:
        def submit(self, *_):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(crew, "_pool", lambda *_: Full())
    with threadpool_limits(2), pytest.raises(RuntimeError, match="can't start"):
        said(Decoder(model()), 3)
    monkeypatch.undo()
    assert np.isfinite(said(Decoder(model()), 3)).all()


def test_long_texts_are_read_in_pieces(monkeypatch):
    """The logits are those of one call, of each token if asked for, and in the order of the texts."""
    whole, other = ids(90), ids(5, 2)
    texts = Decoder(model())
    expected = [texts.read((texts.new_sequence(), x), every=True) for x in (other, whole)]
    monkeypatch.setattr(decoder, "CHUNK", 32)
    pieces = Decoder(model())
    given = [(pieces.new_sequence(), x) for x in (other, whole)]
    np.testing.assert_array_equal(pieces.read(*given, every=True), np.concatenate(expected))
    given = [(pieces.new_sequence(), x) for x in (whole, other)]
    np.testing.assert_array_equal(pieces.read(*given), np.stack([expected[1][-1], expected[0][-1]]))


def test_programs_are_kept_and_share_their_memory():
    """Calls with many numbers of rows, as a server's, add each program once, and need the memory of the largest."""
    texts, largest = Decoder(model()), Decoder(model())
    added, add = [], texts._body
    texts._body = lambda program: (added.append(program.num_rows), add(program))
    texts._body.__name__ = "_body"
    counts = [*range(1, 40), *range(40, 0, -1)]
    for n in counts:
        np.testing.assert_array_equal(said(texts, n), said(Decoder(model()), n))
    assert added == list(range(1, 41))
    said(largest, 40)
    assert memory_of(texts) == memory_of(largest)


def memory_of(texts):
    return sum(rooms.nbytes for rooms in texts._programs._rooms.values())


def test_programs_that_do_not_fit_are_forgotten(monkeypatch):
    monkeypatch.setattr(kept_programs, "MOST_INSTRUCTIONS", 300)
    texts = Decoder(model())
    for n in range(1, 40):
        np.testing.assert_array_equal(said(texts, n), said(Decoder(model()), n))
        assert sum(program.num_instructions for program in texts._programs._programs.values()) <= 300
    assert len(texts._programs._programs) > 2
    monkeypatch.setattr(kept_programs, "LARGEST", memory_of(texts))
    said(texts, 3)
    assert texts._programs._programs
    said(texts, 70)
    assert not texts._programs._programs
    assert memory_of(texts) == 0


def test_a_substitute_is_called():
    """By the definitions, which the walk would pass by."""
    texts, calls = Decoder(model()), []

    class Counted(ops.RMSNorm):
        def forward(self, x, weight, *, eps):
            calls.append(x.shape)
            return super().forward(x, weight, eps=eps)

    expected = said(texts, 4, 5)
    with autodiff.substitute(ops.RMSNorm, Counted):
        np.testing.assert_allclose(said(texts, 4, 5), expected, rtol=1e-4, atol=1e-4)
    assert calls
    with kernels.substitute("top_k", kernels.registry["top_k"].definition):
        assert programs(0) is None


def test_both_sides_agree_on_the_order_of_weights():
    for name, kind in formats.FORMATS.items():
        assert kind.even_first == decoders.DECODERS[name].even_first


def test_walks_without_helpers(monkeypatch):
    """When there were so many that no order has room."""
    with threadpool_limits(1):
        alone = said(Decoder(model()), 3, 90)
    monkeypatch.setattr(crew, "_MOST", 1)
    with threadpool_limits(3):
        np.testing.assert_array_equal(said(Decoder(model()), 3, 90), alone)
