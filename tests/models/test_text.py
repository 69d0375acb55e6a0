import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from moe_numpy.models.text import NAME_COLUMNS, ByteTokenizer, Tokenizer, streamed, token_name, utf8

BYTES = ByteTokenizer()
LONG_CHARACTERS = [
    "👨\u200d👩\u200d👧\u200d👦",  # joined by zero-width joiners
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England, spelled in tags
    "e\u0301",  # a combining accent
    "می\u200cخواهم",
    "❤\ufe0f",
    "👍🏽",
    "नमस्ते",
    "日本語",
]


def test_it_is_a_tokenizer():
    assert isinstance(BYTES, Tokenizer)
    assert (BYTES.vocab_size, BYTES.end_ids) == (256, frozenset())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_comes_back(text):
    assert BYTES.decode(BYTES.encode(text)) == text


@given(st.lists(st.integers(0, 255)))
def test_a_stream_gives_what_decoding_the_whole_gives(ids):
    assert "".join(streamed(BYTES, ids)) == BYTES.decode(ids) == bytes(ids).decode("utf-8", "replace")


@given(st.lists(st.sampled_from([0x41, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xC0, 0xED, 0xFF])))
def test_nothing_is_held_longer_than_needed(ids):
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    assert list(streamed(BYTES, ids))[:-1] == [decoder.decode(bytes([id])) for id in ids]


def test_characters_of_several_bytes_come_whole():
    assert list(streamed(BYTES, "aé€".encode())) == ["a", "", "é", "", "", "€", ""]


def test_bytes_that_are_no_text_become_replacement_characters():
    assert list(streamed(BYTES, b"a\xffb\xe2\x82")) == ["a", "\ufffd", "b", "", "", "\ufffd"]


@pytest.mark.parametrize("text", LONG_CHARACTERS)
def test_characters_of_several_code_points_survive(text):
    assert "".join(streamed(BYTES, BYTES.encode(text))) == text


@pytest.mark.parametrize("id", [-1, 256, 1 << 40])
def test_a_token_that_is_no_byte_is_refused(id):
    for use in (BYTES.name, BYTES.stream().feed, lambda id: BYTES.decode([id])):
        with pytest.raises(ValueError, match=f"must be 0 to 255, got {id}"):
            use(id)


def test_text_without_utf_8_is_refused():
    assert utf8("\udcc3\udca9") == "é".encode()  # what Python makes of é where the locale is not UTF-8
    with pytest.raises(ValueError, match="not UTF-8 from position 1 on"):
        BYTES.encode("a\udcff")
    with pytest.raises(ValueError, match="not UTF-8"):
        BYTES.encode("\ud800")


@pytest.mark.parametrize(
    ("byte", "name"), [(32, "space"), (10, "newline"), (97, "a"), (0xE2, "0xE2"), (0, "0x00"), (127, "0x7F")]
)  # fmt: skip
def test_byte_names_are_printable(byte, name):
    assert BYTES.name(byte) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" the", "␣the"),
        ("a\\\n\t", "a\\\\\\n\\t"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202e\u200b", "\\u202e\\u200b"),
        (b"\xe2\x82", "\\xe2\\x82"),
        (b" \xc3\xa9\xc3", "␣é\\xc3"),
        ("\u0301", "\\u0301"),
        ("e\u0301", "e\u0301"),
        ("", '""'),
        ("x" * 20, "x" * 20),
        ("x" * 21, "x" * 19 + "…"),
        ("日" * 10, "日" * 10),
        ("日" * 11, "日" * 9 + "…"),
        ("\u202e" * 30, "\\u202e\\u202e\\u202e…"),
    ],
)
def test_names_of_tokens_are_visible_and_short(text, name):
    assert token_name(text) == name


@given(st.text() | st.binary())
def test_no_name_is_wider_than_promised_or_breaks_a_table(text):
    name = token_name(text)
    assert len(name) > 0
    assert all(c.isprintable() and c != " " for c in name)
    assert cell_len(name) <= NAME_COLUMNS
