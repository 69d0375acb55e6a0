"""What text a published tokenizer makes of tokens, and how it streams.

tokenizer.json describes the way from tokens to text as a chain of decoders. Which tokens a later one can still change
depends on the chain:

    ByteLevel             a token is bytes, and the text is UTF-8 of all bytes
    ByteFallback          tokens <0x00> to <0xFF> are bytes; if a run of them is not UTF-8, all of it becomes U+FFFD
    Replace, Metaspace,   each token has a text of its own; the first one differs: it loses its space
    WordPiece, Strip
    others                text may depend on all tokens

The decoders are those of the tokenizers library: https://github.com/huggingface/tokenizers, tokenizers/src/decoders.
"""

import re
from collections.abc import Callable
from typing import Any

_BYTE = re.compile(r"<0x.{2}>", re.DOTALL)
_OF_ONE_TOKEN = {"Replace", "Strip", "Metaspace", "WordPiece"}


def is_bytes(decoder: Any) -> bool:
    """Whether every token is a string of bytes."""
    return [step["type"] for step in _steps(decoder)] == ["ByteLevel"]


def joining(decoder: Any) -> Callable[[str], bool]:
    """Which tokens form a run, whose text stands only when it has ended: none, those of one byte, or all."""
    steps = _steps(decoder)
    kinds = [step["type"] for step in steps]
    fuse = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    fallback = kinds.index("ByteFallback") if "ByteFallback" in kinds[:fuse] else None
    single = steps[:fuse] if fallback is None else steps[fallback + 1 : fuse]
    before = [] if fallback is None else steps[:fallback]
    if (
        all(step["type"] in _OF_ONE_TOKEN for step in single)
        and all(step["type"] == "Replace" and step["content"] == " " for step in before)  # makes no token <0x..>
        and all(step["type"] == "Strip" and step["stop"] == 0 for step in steps[fuse + 1 :])
    ):
        return (lambda token: False) if fallback is None else (lambda token: _BYTE.fullmatch(token) is not None)
    return lambda token: True


def single_byte(token: str) -> bytes | None:
    """The byte of a token <0x00> to <0xFF>; None for another."""
    try:
        return bytes.fromhex(token[3:5]) if _BYTE.fullmatch(token) else None
    except ValueError:
        return None


class TokenStream:
    """The text of tokens that each have a text of their own, apart from runs, which are held until they end.

    Args:
        decode: the text of ids.
        joins: whether an id belongs to a run.
        anchor: an id outside runs that has text even as the first: in its company another has the text that it has
            in the middle; None if there is no such id.
    """

    def __init__(self, decode: Callable[[list[int]], str], joins: Callable[[int], bool], anchor: int | None):
        self._decode, self._joins, self._anchor = decode, joins, anchor
        self._before: list[int] = []  # all ids until there is text, then the anchor
        self._run: list[int] = []

    def feed(self, id: int) -> str:
        """The text of the run that this id ends, and its own; nothing if it belongs to a run."""
        if self._anchor is None or self._joins(id):
            self._run.append(id)
            return ""
        return self.finish() + self._text([id])

    def finish(self) -> str:
        """The text of the run, if there is one."""
        run, self._run = self._run, []
        return self._text(run) if run else ""

    def _text(self, ids: list[int]) -> str:
        before = self._decode(self._before)
        text = self._decode(self._before + ids)[len(before) :]
        self._before = self._before + ids if self._anchor is None or not (before or text) else [self._anchor]
        return text


def _steps(decoder: Any) -> list[dict[str, Any]]:
    """The decoders in order, sequences in sequences flattened."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]
