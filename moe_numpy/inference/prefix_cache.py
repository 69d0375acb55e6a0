"""Beginnings of texts that were read, so that another text that begins with the same tokens need not read them again.

Texts are cut into blocks. A block is known by its tokens and the block before it, so that texts with a common beginning
have its blocks in common (Kwon et al. 2023, "PagedAttention", section 4.4; Zheng et al. 2023, "SGLang", section 3).
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from ..typing import Array, Float, Int
from .decoder import CHUNK, Decoder
from .sequence import Kept, Sequence

BLOCK = 16  # tokens


@dataclass
class Reuse:
    """How much reading was saved.

    Attributes:
        tokens: of all texts that began.
        reused: those that were not read, because they were known.
    """

    tokens: int = 0
    reused: int = 0

    def __str__(self) -> str:
        return f"reused {self.reused:,} of {self.tokens:,} tokens"


@dataclass(eq=False)
class _Block:
    """What the layers keep of ``BLOCK`` tokens; None where a window had forgotten them.

    Attributes:
        number: its own; the blocks that follow it are known by it.
        rows: one array for each :class:`Kept` of a sequence.
    """

    number: int
    rows: list[Float[Array, "BLOCK width"] | None]
    nbytes: int = field(default=0)


class PrefixCache:
    """Copies of what texts have read. When there is no room, the end of what was not used for the longest time leaves.

    The decoder gives the same bits however a text is cut into calls, so an answer is the same with and without.

        sequence = cache.begin(tokens)              # has read sequence.length of them
        decoder.read((sequence, tokens[sequence.length :]))
        cache.keep(sequence, tokens)                # for the texts to come

    Args:
        decoder: reads the texts; what another one read is of no use.
        memory: bytes of keys, values and latents.

    Attributes:
        nbytes: of them now.
        counts: tokens reused.

    Raises:
        ValueError: memory is negative.
    """

    def __init__(self, decoder: Decoder, memory: int):
        if memory < 0:
            raise ValueError(f"memory must not be negative, got {memory}")
        self.decoder, self.memory = decoder, memory
        self.nbytes, self.counts = 0, Reuse()
        self._blocks: OrderedDict[tuple[int, bytes], _Block] = OrderedDict()  # the least recently used first
        self._numbers = count(1)

    def begin(self, tokens: Int[np.ndarray, " S"]) -> Sequence:
        """A text of its own that has read as many of these tokens as are known, but not the last, which gives logits.

        Where windows have forgotten tokens that will be seen, it has read fewer.
        """
        sequence, path = self.decoder.new_sequence(), self._path(tokens, max(len(tokens) - 1, 0))
        kept = _kept(sequence)
        blocks = [self._blocks[key] for key in path]
        while blocks and not all(_has_rows(blocks, i, each) for i, each in enumerate(kept)):
            blocks.pop()
        if blocks:
            for i, each in enumerate(kept):
                first = _first(each, len(blocks))
                each.start = first * BLOCK
                each.append(np.concatenate([block.rows[i] for block in blocks[first:]]))
            sequence.length = len(blocks) * BLOCK
        self._touch(path[: len(blocks)])
        self.counts.tokens += len(tokens)
        self.counts.reused += sequence.length
        return sequence

    def keep(self, sequence: Sequence, tokens: Int[np.ndarray, " S"]) -> None:
        """Copy what a text has read, as far as it is new and there is room.

        Where layers have windows, call it before they forget: after each ``CHUNK`` tokens or earlier.

        Args:
            sequence: the text; it stays as it is.
            tokens: those that it has read, and perhaps more.

        Raises:
            ValueError: there are fewer tokens than it has read.
        """
        if len(tokens) < sequence.length:
            raise ValueError(f"the text has read {sequence.length} tokens, got {len(tokens)}")
        path, kept, before = self._path(tokens, sequence.length), _kept(sequence), 0
        self._touch(path)
        used = dict.fromkeys(path)
        for start in range(0, sequence.length - BLOCK + 1, BLOCK):
            key = _key(before, tokens, start)
            block = self._blocks.get(key) or _Block(next(self._numbers), [None] * len(kept))
            new = [i for i, each in enumerate(kept) if block.rows[i] is None and each.start <= start]
            used[key] = None
            if new and not self._make_room(sum(BLOCK * kept[i].rows[:1].nbytes for i in new), used):
                break
            for i in new:
                at = start - kept[i].start
                copy = block.rows[i] = kept[i].rows[at : at + BLOCK].copy()
                block.nbytes += copy.nbytes
                self.nbytes += copy.nbytes
            self._blocks[key], before = block, block.number
        self._touch([key for key in used if key in self._blocks])

    def read(self, tokens: Int[np.ndarray, " S"]) -> tuple[Sequence, Float[np.ndarray, "1 V"]]:
        """Begin a text, read the rest of it and keep it; the text and the logits of what follows.

        Raises:
            ValueError: as :meth:`Decoder.read`.
        """
        sequence = self.begin(tokens)
        logits = None
        while logits is None or sequence.length < len(tokens):
            piece = tokens[sequence.length : sequence.length + CHUNK]
            logits = self.decoder.read((sequence, piece))
            self.keep(sequence, tokens)
        return sequence, logits

    def _path(self, tokens: Int[np.ndarray, " S"], length: int) -> list[tuple[int, bytes]]:
        """The known blocks that these tokens begin with, up to ``length`` of them."""
        path, before = [], 0
        for start in range(0, length - BLOCK + 1, BLOCK):
            key = _key(before, tokens, start)
            block = self._blocks.get(key)
            if block is None:
                break
            path.append(key)
            before = block.number
        return path

    def _touch(self, path: list[tuple[int, bytes]]) -> None:
        """These were used now: the last block first, so that no block leaves before those that follow it."""
        for key in reversed(path):
            self._blocks.move_to_end(key)

    def _make_room(self, nbytes: int, used: dict[tuple[int, bytes], None]) -> bool:
        """Whether there is room for so many more bytes, when what is not used has left."""
        while self.nbytes + nbytes > self.memory:
            oldest = next(iter(self._blocks), None)
            if oldest is None or oldest in used:
                return False
            self.nbytes -= self._blocks.pop(oldest).nbytes
        return True


def _key(before: int, tokens: Int[np.ndarray, " S"], start: int) -> tuple[int, bytes]:
    """How a block is known: by the number of the one before it, and its tokens."""
    return before, np.asarray(tokens[start : start + BLOCK], np.int64).tobytes()


def _kept(sequence: Sequence) -> list[Kept]:
    """What all layers keep."""
    return [kept for layer in sequence.layers for kept in layer]


def _first(kept: Kept, blocks: int) -> int:
    """The first of so many blocks whose tokens will be seen after them."""
    return 0 if kept.window is None else max(blocks * BLOCK - kept.window, 0) // BLOCK


def _has_rows(blocks: list[_Block], i: int, kept: Kept) -> bool:
    """Whether all tokens that will be seen after these blocks are there."""
    return all(block.rows[i] is not None for block in blocks[_first(kept, len(blocks)) :])
