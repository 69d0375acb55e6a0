"""Tokenizers of a few dozen tokens, of each kind that published models have, in folders as published."""

import json

from moe_numpy.pretrained.tokenizer import PublishedTokenizer

WORDS = ["▁the", "▁cat", "▁", "s", "at", "▁on", "e", "é", "日", "▁▁", ",", "t", "h", "a"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def added(*tokens, special=True):
    return [
        {
            "id": id,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": special,
        }
        for id, text in tokens
    ]


def byte_level():
    """As GPT-2, Qwen, OLMoE: tokens are bytes, some of them parts of a character; the emoji 😀 is two tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ã", "©"), ("ð", "Ł"), ("ĺ", "Ģ")]
    vocab = {token: id for id, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    return _document(
        {"type": "BPE", "vocab": vocab, "merges": [" ".join(pair) for pair in merges]},
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        added_tokens=added((len(vocab), "<|end|>"), (len(vocab) + 1, "<｜début▁€｜>")),
    )


def byte_fallback(strip=True, **changed):
    """As Llama and Mixtral (``strip``) or Gemma: characters without a token are tokens of one byte each."""
    vocab = {token: id for id, token in enumerate(["<unk>", "<s>", "</s>", *BYTES, *WORDS])}
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    document = _document(
        {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>", "byte_fallback": True},
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        post_processor=_begin("<s>", 1),
        decoder={"type": "Sequence", "decoders": steps if strip else steps[:3]},
        added_tokens=added((0, "<unk>"), (1, "<s>"), (2, "</s>")),
    )
    return document | changed


def metaspace():
    """As T5: Unigram with a space before the first word, which the text loses."""
    vocab = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], *([token, -float(i)] for i, token in enumerate(WORDS))]
    settings = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return _document(
        {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": False},
        pre_tokenizer=settings,
        decoder=settings,
        added_tokens=added((0, "<pad>"), (1, "</s>"), (2, "<unk>")),
    )


def word_piece():
    """As BERT: words are joined by spaces, parts of words are not."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "##at", ",", ".", "don", "'", "t", "é"]
    return _document(
        {
            "type": "WordPiece",
            "vocab": {token: id for id, token in enumerate(tokens)},
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=_begin("[CLS]", 2),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        added_tokens=added((0, "[PAD]"), (1, "[UNK]"), (2, "[CLS]"), (3, "[SEP]")),
    )


def words():
    """Whole words, without a token for others, and without a decoder: joined by spaces."""
    return _document(
        {"type": "WordLevel", "vocab": {"the": 0, "cat": 1, "": 2, "é": 7}, "unk_token": "<unk>"},
        pre_tokenizer={"type": "Whitespace"},
    )


def end_of_word():
    """As GPT-1: a token that ends a word has a suffix, which becomes a space unless it is the last token."""
    vocab = {token: id for id, token in enumerate(["t", "h", "e</w>", "the</w>", "s</w>", "é"])}
    return _document(
        {"type": "BPE", "vocab": vocab, "merges": [], "end_of_word_suffix": "</w>"},
        decoder={"type": "BPEDecoder", "suffix": "</w>"},
    )


KINDS = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "byte_fallback_unstripped": lambda: byte_fallback(strip=False),
    "metaspace": metaspace,
    "word_piece": word_piece,
    "words": words,
    "end_of_word": end_of_word,
}


def published(folder, document, **files):
    """The tokenizer of a folder with this tokenizer.json and other JSON files, by name without ending."""
    for name, content in {"tokenizer": document, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return PublishedTokenizer.open(folder)


def _begin(token, id):
    """The post-processor that puts a token before a text."""
    special, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [special, text],
        "pair": [special, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }


def _document(model, **parts):
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", **empty, "added_tokens": [], "model": model} | parts
