from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.orchestration.archive import Archive, ArchiveError, content_words
from moe_numpy.orchestration.prompts import prompts
from moe_numpy.orchestration.splits import TRAIN


def filled(*texts):
    archive = Archive(":memory:")
    archive.add((text, "test") for text in texts)
    return archive


def test_recall_at_5_of_paraphrased_questions_among_others():
    pairs = [line.split("\t") for line in Path(__file__).with_name("recall.tsv").read_text("utf-8").splitlines()]
    archive = Archive(":memory:")
    entries = archive.add((said, "said") for said, _ in pairs)
    archive.add((prompt.text, "other") for prompt in prompts(TRAIN, 250, 7))
    found = [
        entry in [hit.entry for hit in archive.search(asked, 5)]
        for entry, (_, asked) in zip(entries, pairs, strict=True)
    ]
    assert len(pairs) >= 40
    assert sum(found) / len(found) >= 0.95


@given(st.text(max_size=300).filter(lambda t: "\x00" not in t and t.isprintable()))
def test_any_query_is_safe_and_entries_stay_word_for_word(text):
    archive = filled("a sentence about rivers", text)
    assert archive.entry(2) == text
    for hit in archive.search(text or "x"):
        assert hit.text in ("a sentence about rivers", text)


def test_rare_words_count_more():
    archive = filled("the dog likes the park", "the dog likes zebras", *["the dog sleeps"] * 20)
    best, *_ = archive.search("which dog likes zebras?")
    assert best.entry == 2
    assert best.coverage == pytest.approx(1)
    assert best.lacks == ()
    assert "[zebras]" in best.snippet


def test_what_an_entry_lacks_is_not_hidden_by_stems():
    (hit,) = filled("the french franc, a currency").search("capital of France")
    assert hit.lacks == ("capital", "france")
    assert hit.coverage == 0


def test_plurals_accents_and_possessives():
    (hit,) = filled("Zoë feeds cats and ponies").search("Zoe's cat, a pony")
    assert hit.lacks == ()


def test_operators_are_words():
    assert [hit.entry for hit in filled("near AND far", "something").search('near" OR (x NOT AND')] == [1]


def test_count_and_common_words():
    archive = filled("red apples", "red pears", "green pears")
    assert archive.count("what is red?") == 2
    assert archive.count("what is it?") == 0
    assert content_words("what is it?") == ["what", "is", "it"]


def test_all_or_none():
    archive = Archive(":memory:")

    def texts():
        yield "one", "test"
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        archive.add(texts())
    assert len(archive) == 0
    assert archive.search("one") == []


def test_it_lasts(tmp_path):
    Archive(tmp_path / "a.sqlite").add([("kept", "test")])
    assert len(Archive(tmp_path / "a.sqlite")) == 1


def test_errors(tmp_path):
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(ArchiveError, match="is no archive"):
        Archive(tmp_path / "text")
    with pytest.raises(KeyError, match="no entry 5"):
        filled("a").entry(5)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        filled("a").search("a", 0)
