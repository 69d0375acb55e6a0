"""Text as token ids and back: what a tokenizer is, the one of bytes, and text that streams in whole characters."""

import codecs
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

NAME_COLUMNS = 20
_BYTE_NAMES = {0x20: "space", 0x0A: "newline", 0x09: "tab", 0x0D: "return"}


@runtime_checkable
class TextStream(Protocol):
    """Text of ids that come one at a time. The pieces joined are ``decode`` of all ids."""

    def feed(self, id: int) -> str:
        """The text that this id completes: what no later id can change, never half a character; often empty."""

    def finish(self) -> str:
        """The rest, when no id follows."""


@runtime_checkable
class Tokenizer(Protocol):
    """A code of texts as ids from 0 to ``vocab_size`` - 1.

    A model may have more rows than the tokenizer has ids, padded to a round number, or fewer, where tokens were added
    that it never saw.

    Attributes:
        vocab_size: 1 + the largest id.
        end_ids: the ids that end a text; may be empty.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_ids(self) -> frozenset[int]: ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text. ValueError if it has none."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, tokens that end it included. Bytes that are not UTF-8 become U+FFFD."""

    def name(self, id: int) -> str:
        """One token in a table: visible, in at most ``NAME_COLUMNS`` columns."""

    def bytes_of(self, id: int) -> bytes:
        """What one token adds in the middle of a text, which may be part of a character; nothing for no token."""

    def stream(self) -> TextStream:
        """Begin a text whose ids come one at a time."""


class ByteTokenizer:
    """The UTF-8 bytes of a text as ids: the default of models trained here."""

    vocab_size = 256
    end_ids: frozenset[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(_byte, ids)).decode("utf-8", errors="replace")

    def name(self, id: int) -> str:
        """``a``, ``space``, ``newline``, ``0xE2``."""
        byte = _byte(id)[0]
        return _BYTE_NAMES.get(byte) or (chr(byte) if 0x20 < byte < 0x7F else f"0x{byte:02X}")

    def bytes_of(self, id: int) -> bytes:
        return _byte(id)

    def stream(self) -> TextStream:
        return ByteStream(_byte)


class ByteStream:
    """The text of tokens that are bytes, each incomplete sequence held until it is whole or cannot become so.

    Args:
        bytes_of: the bytes of an id.
    """

    def __init__(self, bytes_of: Callable[[int], bytes]):
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, id: int) -> str:
        """The characters that the bytes of this id complete."""
        return self._decoder.decode(self._bytes_of(id))

    def finish(self) -> str:
        """U+FFFD if the text ends within a character, else nothing."""
        return self._decoder.decode(b"", final=True)


def streamed(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of ids as they come, piece by piece; a piece may be empty."""
    stream = tokenizer.stream()
    for id in ids:
        yield stream.feed(id)
    yield stream.finish()


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of a text; bytes that Python escaped as surrogates, where the locale is not UTF-8, are restored.

    Raises:
        ValueError: the text has no UTF-8 bytes: it came from bytes in another encoding.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
        data.decode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        wrong = error.object[error.start : error.start + 1]
        raise ValueError(f"the text is not UTF-8 from position {error.start} on: {wrong!a}") from error
    return data


def token_name(text: str | bytes) -> str:
    """The text of a token in a table: ``␣the``, ``\\n``, ``\\xe2\\x82``; cut at ``NAME_COLUMNS`` columns with ``…``."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if not text:
        return '""'
    shown = [_visible(character, first=i == 0) for i, character in enumerate(text)]
    if sum(map(_columns, shown)) <= NAME_COLUMNS:
        return "".join(shown)
    name, left = "", NAME_COLUMNS - 1
    for part in shown:
        left -= _columns(part)
        if left < 0:
            break
        name += part
    return name + "…"


def _visible(character: str, first: bool) -> str:
    if character in " \\":
        return {" ": "␣", "\\": "\\\\"}[character]
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    kind = unicodedata.category(character)[0]
    if kind in "LNPS" or (kind == "M" and not first):  # a combining mark needs something to combine with
        return character
    return character.encode("unicode_escape").decode()


def _columns(text: str) -> int:
    kinds = ((unicodedata.category(c), unicodedata.east_asian_width(c)) for c in text)
    return sum(0 if kind in ("Mn", "Me") else 2 if width in "WF" else 1 for kind, width in kinds)


def _byte(id: int) -> bytes:
    if not 0 <= id < 256:
        raise ValueError(f"a token of bytes must be 0 to 255, got {id}")
    return bytes([id])
