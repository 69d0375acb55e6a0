import json
import os
import sys

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="needs the tokenizers library: python -m pip install tokenizers")
from small_tokenizers import KINDS, byte_fallback, byte_level, published, word_piece, words

from moe_numpy.models.text import Tokenizer
from moe_numpy.pretrained.errors import PretrainedError
from moe_numpy.pretrained.tokenizer import PublishedTokenizer

SPECIAL = {"content": "<x>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


@pytest.fixture
def llama(tmp_path):
    return published(tmp_path, byte_fallback())


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text_are_those_of_the_library(tmp_path, kind):
    import tokenizers

    ours = published(tmp_path, KINDS[kind]())
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert isinstance(ours, Tokenizer)
    for text in ("the", "" if kind == "words" else "the cats, é"):
        if kind == "end_of_word":
            text = "the"
        assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == theirs.decode(ours.encode(text), skip_special_tokens=False)


def test_a_text_of_bytes_comes_back_whatever_it_is(tmp_path):
    tokenizer = published(tmp_path, byte_level())
    text = " the é 😀\u200d\u0301\x00\r\n日"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_post_processor_adds_the_first_token(llama):
    assert llama.encode("the")[:1] == [1]
    assert llama.encode("the", add_special_tokens=False) == llama.encode("the")[1:]
    assert llama.encode("") == [1]


def test_special_tokens_in_a_text_become_ids_unless_they_are_to_be_split(tmp_path, llama):
    assert llama.encode("</s>", add_special_tokens=False) == [2]
    split = published(tmp_path, byte_fallback(), tokenizer_config={"split_special_tokens": True})
    assert 2 not in split.encode("</s>", add_special_tokens=False)


def test_nothing_is_cut_or_padded(tmp_path):
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    tokenizer = published(tmp_path, byte_fallback(truncation=cut, padding=padding))
    assert tokenizer.decode(tokenizer.encode("the cat", add_special_tokens=False)) == "the cat"


def test_ids_have_gaps_and_a_model_may_have_more_rows(tmp_path):
    tokenizer = published(tmp_path, words())
    assert tokenizer.vocab_size == 8
    assert tokenizer.decode([0, 5, 1, 100]) == "the cat"
    assert tokenizer.name(5) == tokenizer.name(100) == "no token"
    assert tokenizer.decode(iter([0, 1])) == "the cat"


@pytest.mark.parametrize("id", [-1, 1 << 32])
def test_what_is_no_id_is_refused(llama, id):
    for use in (llama.name, llama.stream().feed, lambda id: llama.decode([id])):
        with pytest.raises(ValueError, match=f"must be 0 to 2³² - 1, got {id}"):
            use(id)


def test_what_the_vocabulary_lacks_is_refused_in_one_line(tmp_path):
    with pytest.raises(PretrainedError, match=r"tokenizer\.json cannot encode the text: .*UNK") as caught:
        published(tmp_path, words()).encode("the dog")
    assert "\n" not in str(caught.value)


def test_text_without_utf_8_is_refused(llama):
    assert llama.encode("\udcc3\udca9") == llama.encode("é")
    with pytest.raises(ValueError, match="not UTF-8 from position 1 on"):
        llama.encode("a\udcff")


def test_names_show_what_a_token_holds(tmp_path, llama):
    def names(tokenizer, text):
        return [tokenizer.name(id) for id in tokenizer.encode(text)]

    assert names(llama, "the é\n</s>")[:1] == ["<s>"]
    assert names(llama, "é\n</s>") == ["<s>", "␣", "é", "<0x0A>", "</s>"]
    assert llama.name(3 + 256) == "␣the"
    assert names(published(tmp_path, byte_level()), " the 😀\n<|end|>") == [
        "␣the",
        "␣",
        "\\xf0\\x9f",
        "\\x98\\x80",
        "\\n",
        "<|end|>",
    ]
    assert names(published(tmp_path, word_piece()), "cats") == ["[CLS]", "␣cat", "s"]


class TestAddedTokens:
    def test_those_of_the_config_are_added(self, tmp_path):
        end = published(tmp_path, byte_fallback()).vocab_size
        config = {"added_tokens_decoder": {str(end + 1): SPECIAL | {"content": "<y>"}, str(end): SPECIAL}}
        tokenizer = published(tmp_path, byte_fallback(), tokenizer_config=config)
        assert tokenizer.vocab_size == end + 2
        assert tokenizer.encode("<y><x>", add_special_tokens=False) == [end + 1, end]

    def test_settings_of_the_config_count(self, tmp_path):
        config = {"added_tokens_decoder": {"2": SPECIAL | {"content": "</s>", "rstrip": True}}}
        tokenizer = published(tmp_path, byte_fallback(), tokenizer_config=config)
        assert tokenizer.encode("</s>   ", add_special_tokens=False) == [2]

    @pytest.mark.parametrize(
        ("tokens", "fault"),
        [
            ({"7": SPECIAL | {"content": "</s>"}}, "added token '</s>' has id 7, but tokenizer.json makes it 2"),
            ({"999": SPECIAL}, "added token '<x>' has id 999"),
            ({"x": SPECIAL}, "added_tokens_decoder is malformed"),
            ({"2": "</s>"}, "added_tokens_decoder is malformed"),
            ([1], "added_tokens_decoder is malformed"),
        ],
    )
    def test_contradictions_are_refused(self, tmp_path, tokens, fault):
        with pytest.raises(PretrainedError, match=r"tokenizer_config\.json: ") as caught:
            published(tmp_path, byte_fallback(), tokenizer_config={"added_tokens_decoder": tokens})
        assert fault in str(caught.value)


class TestDamage:
    @pytest.mark.parametrize(
        "content",
        [
            b"not JSON",
            b"[]",
            b"null",
            b"{}",
            b'{"model": {}}',
            b"[" * 100_000,
            b"\xff\xfe",
            json.dumps(byte_fallback()).encode()[:-1],
            json.dumps(byte_fallback()).encode() + b"x",
            json.dumps(byte_fallback(decoder={"type": "Unknown"})).encode(),
            json.dumps(byte_fallback(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]})).encode(),
            json.dumps(byte_fallback(model={"type": "Unigram", "unk_id": 9, "vocab": []})).encode(),
        ],
    )
    def test_a_damaged_file_is_refused_in_one_line(self, tmp_path, content):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(
            PretrainedError, match=r"tokenizer\.json is damaged, or newer than tokenizers .*: "
        ) as caught:
            PublishedTokenizer.open(tmp_path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600

    def test_every_file_with_a_flipped_bit_opens_or_is_refused(self, tmp_path):
        content = json.dumps(word_piece()).encode()
        rng = np.random.default_rng(0)
        for position in rng.integers(len(content), size=150):
            flipped = bytearray(content)
            flipped[position] ^= 1 << rng.integers(8)
            (tmp_path / "tokenizer.json").write_bytes(flipped)
            try:
                tokenizer = PublishedTokenizer.open(tmp_path)
                tokenizer.decode(tokenizer.encode("the cats"))
            except PretrainedError as error:
                assert str(error).startswith(str(tmp_path / "tokenizer.json"))  # noqa: PT017

    def test_a_folder_in_its_place(self, tmp_path):
        (tmp_path / "tokenizer.json").mkdir()
        with pytest.raises(PretrainedError, match=r"tokenizer\.json is a folder, not a file"):
            PublishedTokenizer.open(tmp_path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
    def test_a_pipe_in_its_place(self, tmp_path):
        os.mkfifo(tmp_path / "tokenizer.json")
        with pytest.raises(PretrainedError, match=r"tokenizer\.json is a pipe or device, not a file"):
            PublishedTokenizer.open(tmp_path)

    def test_a_huge_file_is_not_read(self, tmp_path):
        with open(tmp_path / "tokenizer.json", "wb") as file:
            file.write(b"{")
            file.truncate(1 << 40)
        with pytest.raises(PretrainedError, match="has 1,099,511,627,776 bytes; at most"):
            PublishedTokenizer.open(tmp_path)

    def test_a_missing_file_says_what_to_do(self, tmp_path):
        with pytest.raises(PretrainedError, match=r"has no tokenizer\.json$"):
            PublishedTokenizer.open(tmp_path)
        (tmp_path / "tokenizer.model").touch()
        with pytest.raises(PretrainedError, match=r"tokenizer\.model is not read; transformers writes tokenizer\.json"):
            PublishedTokenizer.open(tmp_path)
        with pytest.raises(PretrainedError, match="nowhere is not a folder"):
            PublishedTokenizer.open(tmp_path / "nowhere")

    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"a": NaN}', b"", b"[" * 100_000])
    @pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"])
    def test_damaged_files_beside_it(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PretrainedError, match=f"{name} (is not JSON|is damaged|is empty)"):
            published(tmp_path, byte_fallback())

    def test_a_missing_library_names_the_command(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(PretrainedError, match="needs the tokenizers library, which is missing; python -m pip inst"):
            PublishedTokenizer.open(tmp_path)
