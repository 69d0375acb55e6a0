"""Text as the tokens of a published model."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Int32

from ..typing import Array
from .corpus import CorpusError, Domain, LeftOut, held_out_blocks, hold_out

Encode = Callable[[str], Sequence[int]]
_PIECE = 1 << 16  # characters encoded at once: a tokenizer takes a hundred times the memory of its text


def domain_of(
    name: str, text: bytes, encode: Encode | None = None, files: int = 1, left_out: tuple[LeftOut, ...] = ()
) -> Domain:
    """A domain of UTF-8 text, a tenth of it held out; its tokens are bytes unless there is a function that encodes."""
    if encode is None:
        return Domain(name, *hold_out(text), files, left_out)
    train, validation = held_out_blocks(text)
    return domain_of_blocks(name, map(bytes, train), map(bytes, validation), encode, files, left_out)


def domain_of_blocks(
    name: str,
    train: Iterable[bytes],
    validation: Iterable[bytes],
    encode: Encode,
    files: int = 1,
    left_out: tuple[LeftOut, ...] = (),
) -> Domain:
    """A domain of training and validation text in blocks; a character cut at the end of a block is dropped.

    Raises:
        CorpusError: the tokenizer has no tokens for the text.
    """
    texts = [block.decode("utf-8", errors="ignore") for block in validation]
    num_bytes = sum(len(text.encode()) for text in texts)
    try:
        ids = _ids(texts, encode)
        train_ids = _ids((block.decode("utf-8", errors="ignore") for block in train), encode)
    except ValueError as error:
        raise CorpusError(f"{name}: {error}") from error
    return Domain(name, train_ids, ids, files, left_out, num_bytes / max(ids.size, 1))


def _ids(texts: Iterable[str], encode: Encode) -> Int32[Array, " n"]:
    """The tokens of texts, each by itself."""
    ids = [np.array(encode(piece), np.int32) for text in texts for piece in pieces(text)]
    return np.concatenate([np.zeros(0, np.int32), *ids])


def pieces(text: str) -> Iterator[str]:
    """The text in parts of some length that end at line breaks, if it has any."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end
