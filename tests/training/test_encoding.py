"""Text as the tokens of a published model: where it is cut, what is dropped, what is told."""

import numpy as np
import pytest

from moe_numpy.training import Corpus, CorpusError, Domain, corpus, default_corpus, load_corpus
from moe_numpy.training.encoding import domain_of


def in_pairs(text):
    """A tokenizer with one token for two characters: the sum of their code points."""
    return [sum(map(ord, text[i : i + 2])) for i in range(0, len(text), 2)]


def code_points(text):
    return list(map(ord, text))


def test_blocks_joined_are_what_is_held_out():
    for size in (0, 5, 80, 1234):
        text = np.random.default_rng(size).bytes(size)
        for blocks, whole in zip(corpus.held_out_blocks(text), corpus.hold_out(text), strict=True):
            assert b"".join(map(bytes, blocks)) == whole.tobytes()
    train, validation = corpus.held_out_blocks(bytes(800))
    assert [len(b) for b in validation] == [10] * 8
    assert [len(b) for b in train] == [50, *[90] * 7, 40]


def test_characters_that_a_cut_divides_are_dropped_and_no_other_is_made():
    text = "a€" * 1000  # bytes: 61 E2 82 AC; 4000 in 80 blocks of 50, every other cut within a character
    domain = domain_of("euro", text.encode(), code_points)
    found = np.concatenate([domain.train, domain.validation])
    assert set(found.tolist()) == {ord("a"), ord("€")}
    cuts = 16
    assert 2000 - 2 * cuts <= found.size < 2000
    assert domain.train.dtype == np.int32


def test_training_and_validation_text_share_no_token():
    lines = "".join(f"{i:07}\n" for i in range(1000))
    domain = domain_of("lines", lines.encode(), lambda text: [int(line) for line in text.split("\n") if len(line) == 7])
    assert not set(domain.train.tolist()) & set(domain.validation.tolist())
    assert len(domain.train) + len(domain.validation) > 980


def test_long_text_is_encoded_piece_by_piece_at_line_breaks(monkeypatch):
    monkeypatch.setattr("moe_numpy.training.encoding._PIECE", 100)
    seen = []

    def encode(text):
        seen.append(text)
        return code_points(text)

    text = "".join(f"line {i}\n" for i in range(400))
    domain = domain_of("lines", text.encode(), encode)
    assert len(domain.train) + len(domain.validation) == len(text)
    assert max(map(len, seen)) <= 100
    inside = [piece for piece in seen if len(piece) > 60]
    assert sum(piece.endswith("\n") for piece in inside) >= 0.9 * len(inside)
    unbroken = domain_of("one line", b"x" * 5000, encode)
    assert len(unbroken.train) + len(unbroken.validation) == 5000


def test_bytes_per_token_are_those_of_the_validation_text():
    domain = domain_of("pairs", ("é" * 4000).encode(), in_pairs)
    assert domain.bytes_per_token == pytest.approx(4, rel=0.05)
    both = Corpus([domain, domain_of("more", b"x" * 4000, in_pairs)])
    assert both.bytes_per_token == pytest.approx(3, rel=0.05)
    assert both.unit == "token"
    assert both.validation_windows(8).bytes_per_token == both.bytes_per_token
    assert (default_corpus().unit, default_corpus().bytes_per_token) == ("byte", 1)


def test_the_fingerprint_is_of_the_tokens():
    text = b"some text " * 300
    prints = {Corpus([domain_of("a", text, encode)]).fingerprint for encode in (None, in_pairs, code_points)}
    assert len(prints) == 3


def test_batches_hold_ids_above_255():
    one = Corpus([domain_of("wide", ("日本語" * 500).encode(), code_points)])
    batch = one.batch(0, batch_size=4, context=8, seed=0)
    assert batch.tokens.min() > 255
    assert one.largest_token == ord("語")
    assert batch.tokens.dtype == np.int64


def test_the_built_in_text_in_tokens():
    tokens, plain = default_corpus(in_pairs), default_corpus()
    assert [d.name for d in tokens.domains] == [d.name for d in plain.domains]
    for ours, theirs in zip(tokens.domains, plain.domains, strict=True):
        assert ours.train.size == pytest.approx(theirs.train.size / 2, rel=0.01)
    assert tokens.domains[2].bytes_per_token == pytest.approx(2, rel=0.01)


def test_too_few_tokens_are_told_in_tokens(tmp_path):
    (tmp_path / "short.txt").write_text("x" * 300)
    with pytest.raises(ValueError, match=r"domain 'short' has \d+ tokens of training text; a window of context=200 "):
        load_corpus([tmp_path / "short.txt"], 200, in_pairs)
    with pytest.raises(ValueError, match=r"has \d+ bytes of training text"):
        Corpus([Domain("b", np.zeros(3, np.uint8), np.zeros(3, np.uint8))]).validation_windows(9)


def test_text_without_tokens_names_its_domain(tmp_path):
    def refuse(text):
        raise ValueError("there is no token for 'x'")

    (tmp_path / "notes.txt").write_text("x" * 3000)
    with pytest.raises(CorpusError, match="notes: there is no token for 'x'"):
        load_corpus([tmp_path / "notes.txt"], 8, refuse)
