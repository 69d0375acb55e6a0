import functools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the tokenizers library: python -m pip install tokenizers")
from small_tokenizers import BYTES, KINDS, byte_fallback, published

from moe_numpy.models.text import streamed


def strip(content, start, stop):
    return {"type": "Strip", "content": content, "start": start, "stop": stop}


FALLBACK, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}
LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
CHAINS = {
    "sequence_of_sequence": [{"type": "Sequence", "decoders": [FALLBACK, FUSE]}],
    "strip_at_the_end": [FALLBACK, FUSE, strip("s", 0, 1)],
    "strip_several": [FALLBACK, FUSE, strip("▁", 3, 0)],
    "strip_two_kinds": [
        FUSE,
        strip("▁", 1, 0),
        strip("t", 1, 0),
    ],
    "strip_each_token": [strip("▁", 1, 0), FALLBACK],
    "replace_across_tokens": [FUSE, {"type": "Replace", "pattern": {"String": "at"}, "content": "@"}],
    "replace_makes_bytes": [
        {"type": "Replace", "pattern": {"String": "s"}, "content": "<0xC3>"},
        FALLBACK,
    ],
    "without_fuse": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, FALLBACK],
    "repetitions": [{"type": "CTC", "pad_token": "<unk>", "word_delimiter_token": "▁", "cleanup": True}],
    "bytes_joined": [FUSE, LEVEL],
}


@functools.cache
def tokenizer_of(kind, make_folder):
    document = KINDS[kind]() if kind in KINDS else byte_fallback(decoder={"type": "Sequence", "decoders": CHAINS[kind]})
    return published(make_folder(kind), document)


@pytest.fixture(scope="session")
def of(tmp_path_factory):
    return functools.partial(tokenizer_of, make_folder=tmp_path_factory.mktemp)


@pytest.mark.parametrize("kind", [*KINDS, *CHAINS])
@given(data=st.data())
def test_a_stream_gives_what_decoding_the_whole_gives(of, kind, data):
    tokenizer = of(kind)
    first = tokenizer.vocab_size - 15
    telling = [3 + byte for byte in b"\xc3\xa9\xf0\x9f\x98\x80\xff"]  # bytes of é and of 😀, in those that have bytes
    some = st.integers(max(first, 0), tokenizer.vocab_size + 3) | st.sampled_from(telling)  # and a few without a token
    ids = data.draw(st.lists(some | st.integers(0, tokenizer.vocab_size)))
    assume(kind != "strip_at_the_end" or any(id < tokenizer.vocab_size for id in ids))  # the library needs one to strip
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "byte_fallback_unstripped"])
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_no_piece_of_a_text_is_half_a_character(of, kind, text):
    tokenizer = of(kind)
    pieces = list(streamed(tokenizer, tokenizer.encode(text, add_special_tokens=False)))
    assert "\ufffd" not in "".join(pieces).replace("\ufffd", "", text.count("\ufffd"))
    assert "".join(pieces) == tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))


def test_text_comes_as_soon_as_it_stands(of):
    def pieces(kind, text):
        tokenizer = of(kind)
        return list(streamed(tokenizer, tokenizer.encode(text, add_special_tokens=False)))

    assert pieces("byte_level", " the é😀!") == [" the", " ", "é", "", "😀", "!", ""]
    assert pieces("metaspace", "the cat") == ["the", " cat", ""]
    assert pieces("word_piece", "the cats, the") == ["the", " cat", "s", ",", " the", ""]
    assert pieces("words", "the cat") == ["the", " cat", ""]


def test_the_first_space_is_lost_once(of):
    tokenizer = of("byte_fallback")
    the, space = tokenizer.encode("the cat", add_special_tokens=False)[0], 3 + 256 + 2
    assert tokenizer.name(space) == "␣"
    assert list(streamed(tokenizer, [space, space, the])) == ["", " ", tokenizer.decode([space, space, the])[1:], ""]


def test_bytes_are_held_until_their_run_ends(of):
    """A run of bytes that is not UTF-8 becomes U+FFFD as a whole, so no character of it stands before."""
    tokenizer = of("byte_fallback")
    smile, e = [3 + byte for byte in "😀".encode()], 3 + 256 + 6
    assert [BYTES[id - 3] for id in smile] == ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert list(streamed(tokenizer, [*smile, e])) == ["", "", "", "", "😀e", ""]
    assert list(streamed(tokenizer, [*smile, 3 + 0xFF])) == ["", "", "", "", "", "\ufffd" * 5]


def test_what_any_later_token_can_change_comes_at_the_end(of):
    assert list(streamed(of("end_of_word"), [3, 4])) == ["", "", "the s"]
