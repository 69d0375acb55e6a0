"""Windows of texts for a model to read: evenly spread, none overlapping another."""

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from .routed_text import TextWindow

LONGEST_WINDOW = 256  # tokens; attention then takes little beside the experts
_CHARACTERS = 8  # of text per token of a window, so that a window is seldom short


def text_windows(
    texts: Sequence[Any],
    encode: Callable[[Any], list[int]],
    *,
    tokens: int,
    length: int,
    lead: Sequence[int] = (),
) -> list[TextWindow]:
    """At most ``tokens`` tokens of the texts, as many of each, in windows of at most ``length``; texts alternate.

    A text that is not much longer than its part is encoded whole; of a longer one, excerpts are.

    Args:
        texts: one per domain; strings, or anything that ``encode`` takes slices of.
        encode: a text as token ids.
        tokens: the most to take of all texts together.
        length: the longest window, ``lead`` not included.
        lead: ids that every window begins with, such as ``<s>``; not counted.

    Raises:
        ValueError: a size below 1, or fewer tokens than texts.
    """
    if length < 1 or tokens < max(len(texts), 1):
        raise ValueError(f"length must be at least 1 and tokens at least {len(texts)}, got {length} and {tokens}")
    each = tokens // len(texts)
    length = min(length, each)
    windows = [
        [
            TextWindow(np.array([*lead, *ids], np.int64), domain, len(lead))
            for ids in _spread(text, encode, each, length)
        ]
        for domain, text in enumerate(texts)
    ]
    return [w for w in chain.from_iterable(zip_longest(*windows)) if w is not None]


def _spread(text: Any, encode: Callable[[Any], list[int]], tokens: int, length: int) -> list[list[int]]:
    """At most ``tokens`` tokens in windows of at most ``length``, evenly spread over a text; none is empty."""
    count, excerpt = tokens // length, _CHARACTERS * length
    if len(text) <= count * excerpt:
        ids = encode(text)
        available = -(-len(ids) // length)
        taken = min(count, available)
        starts = np.arange(taken) * available // max(taken, 1) * length
        return [ids[s : s + length] for s in starts]
    starts = np.arange(count) * len(text) // count
    return [ids for ids in (encode(text[s : s + excerpt])[:length] for s in starts) if ids]
