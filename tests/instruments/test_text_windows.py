import numpy as np
import pytest

from moe_numpy.instruments.text_windows import text_windows


def encode(text):
    """Words as ids, for texts that consist of numbers."""
    return [int(word) for word in text.split()]


def numbers(count, start=0):
    return " ".join(map(str, range(start, start + count)))


def ids_of(windows, domain):
    return [w.ids.tolist() for w in windows if w.domain == domain]


def test_a_short_text_is_taken_whole_in_consecutive_windows():
    windows = text_windows([numbers(10)], encode, tokens=100, length=4)
    assert ids_of(windows, 0) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_longer_text_is_sampled_evenly_and_nothing_twice():
    text = numbers(5000)
    for tokens in (96, 1000, 4000, 4999, 9999):
        windows = text_windows([text], encode, tokens=tokens, length=32)
        ids = np.concatenate([w.ids for w in windows])
        assert len(ids) <= tokens
        assert len(ids) >= min(tokens, 5000) // 32 * 32 * 0.9
        # an excerpt may begin within a word, whose end is then another number
        whole = np.concatenate([w.ids[1:] for w in windows])
        assert len(set(whole.tolist())) == len(whole)
        assert max(len(w.ids) for w in windows) <= 32
        assert windows[-1].ids.max() > 5000 * (1 - 2 / len(windows)) - 100


def test_domains_alternate_and_share_the_tokens():
    windows = text_windows([numbers(50), numbers(50, 100), numbers(3, 200)], encode, tokens=30, length=5)
    assert [w.domain for w in windows] == [0, 1, 2, 0, 1]
    assert [len(w.ids) for w in windows] == [5, 5, 3, 5, 5]


def test_what_begins_a_text_begins_each_window_and_is_marked():
    windows = text_windows([numbers(6)], encode, tokens=6, length=3, lead=(7, 8))
    assert ids_of(windows, 0) == [[7, 8, 0, 1, 2], [7, 8, 3, 4, 5]]
    assert all(w.lead == 2 for w in windows)


def test_few_tokens_make_short_windows():
    windows = text_windows([numbers(50), numbers(50)], encode, tokens=5, length=100)
    assert [len(w.ids) for w in windows] == [2, 2]


def test_bytes_and_texts_without_tokens():
    (window,) = text_windows([b"abc", b""], list, tokens=100, length=10)
    assert window.ids.tolist() == [97, 98, 99]
    assert text_windows([" "], encode, tokens=10, length=10) == []


def test_refusals():
    with pytest.raises(ValueError, match="tokens at least 2, got 4 and 1"):
        text_windows(["1", "2"], encode, tokens=1, length=4)
    with pytest.raises(ValueError, match="length must be at least 1"):
        text_windows(["1"], encode, tokens=1, length=0)
