"""The tokenizer of models trained here, byte by byte, as a published ``tokenizer.json``."""

import json
from typing import Any

from .tokenizer import bytes_of_character


def byte_tokenizer() -> str:
    """256 tokens, the id of each its byte; no merges, no special tokens."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    vocabulary = sorted(bytes_of_character().items(), key=lambda item: item[1])
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(vocabulary),
            "merges": [],
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
