"""The tokenizer of a published model: tokenizer.json, through the tokenizers library."""

import operator
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ..models.text import ByteStream, TextStream, token_name, utf8
from . import token_text
from .errors import PretrainedError
from .small_files import read_bytes, read_object
from .special_tokens import CONFIG, end_ids, special_tokens

INSTALL = "python -m pip install tokenizers jinja2"
FILE = "tokenizer.json"
_LARGEST_FILE = 512 << 20  # bytes; those of 262,144 tokens have 33 million
_OTHER_FORMATS = ("tokenizer.model", "tekken.json", "tiktoken.model", "vocab.json", "vocab.txt")


class PublishedTokenizer:
    """A :class:`moe_numpy.models.text.Tokenizer` as published.

    It has the ids of its files. A model's embedding may have more rows, padded to a round number: such an id has no
    token and no text. It may have fewer: then tokens were added that the model never saw.

    Attributes:
        path: tokenizer.json.
        vocab_size: 1 + the largest id.
        end_ids: the ids that end a text, of generation_config.json, config.json or the eos_token.
        special_tokens: the tokens with a role, as ``{"eos_token": "<|im_end|>"}``.
    """

    def __init__(
        self, path: Path, tokenizer: Any, decoder: Any, end_ids: frozenset[int], special_tokens: dict[str, str]
    ):
        self.path, self.end_ids, self.special_tokens = path, end_ids, special_tokens
        self._tokenizer = tokenizer
        self.vocab_size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self._special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._is_bytes = token_text.is_bytes(decoder)
        self._bytes_of_character = bytes_of_character()
        self._joining = token_text.joining(decoder)
        apart = (id for id in range(self.vocab_size) if not self._joins(id))
        self._anchor = next((id for id in apart if self.decode([id])), None)

    @classmethod
    def open(cls, folder: Path) -> "PublishedTokenizer":
        """Read the tokenizer in the folder of a published model.

        Tokens that tokenizer_config.json adds to tokenizer.json are added.

        Raises:
            PretrainedError: a file is missing, damaged or contradicts another, or the tokenizers library is missing.
        """
        path = folder / FILE
        try:
            import tokenizers
        except ImportError as error:
            raise PretrainedError(f"{path} needs the tokenizers library, which is missing; {INSTALL}") from error
        _require(path)
        content = read_bytes(path, _LARGEST_FILE)
        complaint = f"{path} is damaged, or newer than tokenizers {tokenizers.__version__}"
        with _faults(complaint):
            tokenizer = tokenizers.Tokenizer.from_buffer(content)
            decoder = msgspec.json.decode(content, type=_Decoder).decoder
        tokenizer.no_truncation()
        tokenizer.no_padding()
        config = read_object(folder / CONFIG)
        _add_tokens(tokenizer, config.get("added_tokens_decoder"), folder / CONFIG)
        tokenizer.encode_special_tokens = config.get("split_special_tokens") is True
        with _faults(complaint):
            return cls(path, tokenizer, decoder, end_ids(folder, tokenizer.token_to_id), special_tokens(folder))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text. Special tokens that it spells out become their ids.

        Args:
            text: to encode.
            add_special_tokens: add those that the file's post-processor adds, such as a first ``<s>``; False for the
                text of a chat template, which writes them itself.

        Raises:
            PretrainedError: the vocabulary has no token for a part of the text.
            ValueError: the text has no UTF-8 bytes.
        """
        text = utf8(text).decode()
        with _faults(f"{self.path} cannot encode the text"):
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_plain(self, text: str) -> list[int]:
        """The ids of a text in the middle of others: without special tokens added."""
        return self.encode(text, add_special_tokens=False)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens included. An id without a token has no text.

        It is the tokenizers library's; ``clean_up_tokenization_spaces`` of tokenizer_config.json, which deletes spaces
        before punctuation, is not applied.

        Raises:
            ValueError: an id is negative, or 2³² or larger.
        """
        numbers = [_id(id) for id in ids]
        if not numbers:
            return ""
        with _faults(f"{self.path} cannot decode tokens"):
            return self._tokenizer.decode(numbers, skip_special_tokens=False)

    def name(self, id: int) -> str:
        """One token in a table: ``␣the``, ``\\n``, ``\\xe2\\x82``; ``no token`` for an id without one."""
        token = self._token(id)
        if token is None:
            return "no token"
        if self._is_bytes:
            return token_name(self._bytes_of(id))
        return token_name(self._own_text(id, token))

    def bytes_of(self, id: int) -> bytes:
        token = self._token(id)
        if token is None or self._is_bytes:
            return self._bytes_of(id)
        one = token_text.single_byte(token) if self._joining(token) else None
        return self._own_text(id, token).encode() if one is None else one

    def stream(self) -> TextStream:
        if self._is_bytes:
            return ByteStream(self._bytes_of)
        return token_text.TokenStream(self.decode, self._joins, self._anchor)

    def _token(self, id: int) -> str | None:
        return self._tokenizer.id_to_token(_id(id))

    def _own_text(self, id: int, token: str) -> str:
        """What a token adds after others, as far as that does not depend on them."""
        if self._anchor is None or self._joining(token) or id in self._special:
            return token
        return self.decode([self._anchor, id])[len(self.decode([self._anchor])) :]

    def _joins(self, id: int) -> bool:
        token = self._token(id)
        return token is None or self._joining(token)

    def _bytes_of(self, id: int) -> bytes:
        token = self._token(id) or ""
        try:
            return bytes(self._bytes_of_character[character] for character in token)
        except KeyError:  # an added token, stored as it reads
            return token.encode()


def _id(id: int) -> int:
    number = operator.index(id)
    if not 0 <= number < 1 << 32:
        raise ValueError(f"a token must be 0 to 2³² - 1, got {number}")
    return number


class _Decoder(msgspec.Struct):
    """The part of tokenizer.json that says how tokens become text."""

    decoder: Any = None


def bytes_of_character() -> dict[str, int]:
    """Byte-level vocabularies write each byte as a visible character: itself, or the next one from U+0100 on.

    Radford et al. 2019 (GPT-2), ``bytes_to_unicode``.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _require(path: Path) -> None:
    """PretrainedError if there is no tokenizer.json, with what to do if there is another format."""
    if not path.parent.is_dir():
        raise PretrainedError(f"{path.parent} is not a folder")
    if os.path.lexists(path):
        return
    others = [name for name in _OTHER_FORMATS if (path.parent / name).exists()]
    if not others:
        raise PretrainedError(f"{path.parent} has no {FILE}")
    raise PretrainedError(
        f"{path.parent} has no {FILE}, and {others[0]} is not read; transformers writes {FILE}: "
        "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )


def _add_tokens(tokenizer: Any, tokens: Any, path: Path) -> None:
    """Add tokens given as {id: token with its settings}; those that are present get these settings."""
    from tokenizers import AddedToken

    try:
        described = msgspec.convert(tokens or {}, dict[int, _AddedToken], strict=False)
    except msgspec.ValidationError as error:
        raise PretrainedError(f"{path}: added_tokens_decoder is malformed: {error}") from error
    tokenizer.add_tokens([AddedToken(**msgspec.structs.asdict(token)) for _, token in sorted(described.items())])
    for id, token in described.items():
        given = tokenizer.token_to_id(token.content)
        if given != id:
            raise PretrainedError(
                f"{path}: added token {token.content!r:.200} has id {id}, but {FILE} makes it {given}"
            )


class _AddedToken(msgspec.Struct):
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


@contextmanager
def _faults(complaint: str) -> Iterator[None]:
    """Turn an error of the tokenizers library, its panics included, into a PretrainedError of one line."""
    try:
        yield
    except PretrainedError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise PretrainedError(f"{complaint}: {' '.join(str(error).split()):.300}") from error
