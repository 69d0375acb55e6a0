"""Text as bytes or other tokens, in domains, and windows of it to train and validate on.

By default a byte is a token, so the vocabulary has 256 entries and no tokenizer to train; a published model brings its
own. Each domain is split into training and validation text once. The windows of a step are a function of (seed, step)
alone, so a resumed run needs no generator state to see the same data.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Integer, UInt8

from .. import devices
from ..models.text import utf8
from ..typing import Array, Int
from .pictures import Pictures

HELD_OUT_EVERY = 10  # a tenth of the text is for validation
_HELD_OUT_BLOCKS = 8  # of each domain, contiguous


class CorpusError(ValueError):
    """Text that cannot be trained on; the message lists every path with what is wrong with it."""


class LeftOut(NamedTuple):
    """A file or folder inside a folder of text that was not read, and why; ``size`` in bytes, 0 if not known."""

    path: str
    reason: str
    size: int = 0
    is_folder: bool = False


@dataclass(frozen=True, eq=False)
class Domain:
    """One kind of text, from ``files`` files. ``train`` and ``validation`` do not overlap.

    ``bytes_per_token`` is that of the validation text; None where tokens are bytes.
    """

    name: str
    train: Integer[Array, " n"]
    validation: Integer[Array, " m"]
    files: int = 1
    left_out: tuple[LeftOut, ...] = ()
    bytes_per_token: float | None = None

    @property
    def skipped(self) -> int:
        """How many files of a folder were left out: hidden, not a regular file, or not UTF-8 text."""
        return sum(not each.is_folder for each in self.left_out)


@dataclass(frozen=True, eq=False)
class Windows:
    """B windows of S tokens: ``targets[b, s]`` follows ``tokens[b, s]``; ``domain[b]``, on the host, is their domain.

    ``bytes_per_token`` is the mean over the domains.
    """

    tokens: Int[Array, "B S"]
    targets: Int[Array, "B S"]
    domain: Int[Array, " B"]
    bytes_per_token: float = 1.0


class Corpus:
    """The domains to train on, cut into windows, and pictures with captions where there are any.

    Raises:
        ValueError: there is no domain, or two share a name.
    """

    def __init__(self, domains: Iterable[Domain], pictures: Pictures | None = None):
        self.domains = tuple(domains)
        self.pictures = pictures
        names = [domain.name for domain in self.domains]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a corpus needs domains with different names, got {names}")
        self._sizes = np.array([domain.train.size for domain in self.domains])
        self._begins = np.cumsum(self._sizes) - self._sizes
        self._texts: dict[str, Any] = {}

    def batch(self, step: int, *, batch_size: int, context: int, seed: int, device: str = "cpu") -> Windows:
        """The training windows of one step, drawn at random, from each domain with equal probability.

        Args:
            step: steps completed before this one, from 0.
            batch_size: B.
            context: S.
            seed: equal (seed, step) give equal windows, in any order of calls.
            device: where the windows live; the text is copied there once.

        Raises:
            ValueError: a size below 1, a negative step or seed, or a domain shorter than ``context + 1`` tokens.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._require_a_window(context)
        rng = np.random.default_rng([seed, step])
        domain = rng.integers(len(self.domains), size=batch_size)
        starts = self._begins[domain] + rng.integers(self._sizes[domain] - context)
        text = self._text_on(device)
        xp = array_namespace(text)
        return _windows(text[xp.asarray(starts)[:, None] + xp.arange(context + 1)], domain)

    def validation_windows(self, context: int, limit: int | None = None) -> Windows:
        """Validation windows in a fixed order: no two overlap, and each domain has the same number.

        The domains alternate, so that consecutive windows mix them as a training batch does: which tokens exceed a
        capacity depends on which windows share the batch.

        Args:
            context: S.
            limit: the most windows per domain, evenly spread over its validation text; None for all.

        Raises:
            ValueError: ``context`` or ``limit`` below 1, or a domain shorter than ``context + 1`` tokens.
        """
        self._require_a_window(context)
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        available = min((d.validation.size - 1) // context for d in self.domains)
        count = available if limit is None else min(limit, available)
        starts = np.arange(count) * available // count * context
        positions = starts[:, None] + np.arange(context + 1)
        windows = np.stack([d.validation[positions] for d in self.domains], axis=1)
        flat, domain = windows.reshape(-1, context + 1), np.tile(np.arange(len(self.domains)), count)
        return replace(_windows(flat, domain), bytes_per_token=self.bytes_per_token)

    @property
    def unit(self) -> str:
        """What its tokens are: ``"byte"`` or ``"token"``."""
        return "byte" if all(domain.bytes_per_token is None for domain in self.domains) else "token"

    @property
    def bytes_per_token(self) -> float:
        """The mean over the domains, of validation text."""
        return float(np.mean([1.0 if d.bytes_per_token is None else d.bytes_per_token for d in self.domains]))

    @property
    def largest_token(self) -> int:
        """The highest token id that occurs; a model's vocabulary must contain it."""
        return max(int(text.max(initial=0)) for d in self.domains for text in (d.train, d.validation))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all names and tokens: a run continues only on the text that it began with."""
        digest = hashlib.sha256()
        for domain in self.domains:
            for part in (domain.name.encode(), domain.train.tobytes(), domain.validation.tobytes()):
                digest.update(len(part).to_bytes(8, "little") + part)
        if self.pictures is not None:
            digest.update(self.pictures.fingerprint.encode())
        return digest.hexdigest()

    def _text_on(self, device: str) -> Integer[Array, " n"]:
        """The training text of all domains, concatenated; copied to a device once."""
        if device not in self._texts:
            self._texts[device] = devices.put(np.concatenate([domain.train for domain in self.domains]), device)
        return self._texts[device]

    def _require_a_window(self, context: int) -> None:
        if context < 1:
            raise ValueError(f"context must be at least 1, got {context}")
        for domain in self.domains:
            for part, text in (("training", domain.train), ("validation", domain.validation)):
                if text.size <= context:
                    raise ValueError(
                        f"domain {domain.name!r} has {text.size} {self.unit}s of {part} text; a window of "
                        f"context={context} needs {context + 1}"
                    )


def _windows(windows: Integer[Array, "B W"], domain: Int[Array, " B"]) -> Windows:
    return Windows(windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64), domain)


def encode(text: str) -> Int[Array, " n"]:
    """The UTF-8 bytes of a text as tokens: int64, from 0 to 255.

    Raises:
        ValueError: the text has no UTF-8 bytes: it came from bytes in another encoding.
    """
    return np.frombuffer(utf8(text), np.uint8).astype(np.int64)


def decode(tokens: Integer[Array, " n"]) -> str:
    """The text of tokens; bytes that are not UTF-8 become U+FFFD.

    Raises:
        ValueError: a token outside 0 to 255.
    """
    return bytes(tokens.tolist()).decode("utf-8", errors="replace")


def bytes_needed(context: int) -> int:
    """The size from which both training and validation text of a domain hold a window of ``context``."""
    return HELD_OUT_EVERY * (context + 1 + _HELD_OUT_BLOCKS)


def hold_out(text: bytes) -> tuple[UInt8[Array, " n"], UInt8[Array, " m"]]:
    """Training and validation text. Validation blocks are spread: the end of a text is seldom like its start."""
    train, validation = (np.concatenate(part) for part in held_out_blocks(text))
    return train, validation


def held_out_blocks(text: bytes) -> tuple[list[UInt8[Array, " n"]], list[UInt8[Array, " m"]]]:
    """The blocks of training and of validation text, each contiguous, in order."""
    bytes_ = np.frombuffer(text, np.uint8)
    sizes = [block.size for block in np.array_split(bytes_, _HELD_OUT_BLOCKS * HELD_OUT_EVERY)]
    ends = np.cumsum(sizes)
    first = HELD_OUT_EVERY // 2
    cuts = [at for i in range(first, len(sizes), HELD_OUT_EVERY) for at in (ends[i] - sizes[i], ends[i])]
    blocks = np.split(bytes_, cuts)
    return blocks[::2], blocks[1::2]
