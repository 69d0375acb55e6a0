"""Stop strings end a text before them, and no part of one is ever shown, however it comes in tokens."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.models.text import ByteTokenizer
from moe_numpy.serve.stopping import StoppedText

LETTERS = st.text("abé", max_size=30)


class Pieces:
    """A stream whose tokens are pieces of a given text."""

    def __init__(self, pieces, rest=""):
        self._pieces, self._rest = pieces, rest

    def feed(self, id):
        return self._pieces[id]

    def finish(self):
        return self._rest


def expected(text, stops):
    """Character by character: the text ends as soon as a stop string has come."""
    for end in range(1, len(text) + 1):
        found = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(found)], True
    return text, False


@given(
    text=LETTERS, stops=st.lists(st.text("abé", min_size=1, max_size=4), max_size=4), cuts=st.sets(st.integers(0, 30))
)
def test_as_if_it_came_character_by_character(text, stops, cuts):
    ends = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(ends)]
    stopped = StoppedText(Pieces(pieces[:-1], "".join(pieces[-1:])), stops)
    whole, is_stopped = expected(text, stops)
    shown = ""
    for id in range(len(pieces) - 1):
        shown += stopped.feed(id)
        assert whole.startswith(shown)
        if stopped.stopped:
            break
    shown += stopped.finish()
    assert (shown, stopped.stopped) == (whole, is_stopped)
    assert stopped.shown == len(shown)


def test_what_could_begin_a_stop_string_is_held_back_and_no_more():
    stopped = StoppedText(Pieces(["xa", "b", "a", "bc"]), ("abc",))
    assert [stopped.feed(id) for id in range(4)] == ["x", "", "ab", ""]
    assert stopped.stopped
    assert stopped.finish() == stopped.feed(0) == ""


@pytest.mark.parametrize("text", ["é", "€", "🙂"])
def test_no_half_character_is_shown(text):
    stopped = StoppedText(ByteTokenizer().stream())
    data = text.encode()
    assert [stopped.feed(byte) for byte in data] == [""] * (len(data) - 1) + [text]
    assert stopped.feed(data[0]) == ""
    assert stopped.finish() == "\ufffd"
