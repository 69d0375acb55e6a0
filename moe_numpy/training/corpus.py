"""Text to train on, as bytes, in domains: what every CPython carries, or the user's own files.

A byte is a token, so the vocabulary has 256 entries and needs no training of its own. Each domain is split
into training and validation text once; a batch is a function of (seed, step) and nothing else, so a resumed
run needs no generator state to see the data that it would have seen.
"""

import hashlib
import itertools
import os
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Integer, UInt8

from .. import devices
from ..typing import Array, Int

VOCABULARY_SIZE = 256

_HELD_OUT_BLOCKS = 8  # contiguous blocks of validation text in each domain
_HELD_OUT_EVERY = 10  # a tenth of the text
_CODE_BYTES = 1_500_000
_ARITHMETIC_LINES = 36_000
_ARITHMETIC_SEED = 1


class CorpusError(ValueError):
    """Text that cannot be trained on; the message lists every path with what is wrong with it."""


@dataclass(frozen=True, eq=False)
class Domain:
    """One kind of text. ``train`` and ``validation`` come from different places of it.

    ``skipped`` counts the files of a folder that were left out: hidden, not a regular
    file, or not UTF-8 text.
    """

    name: str
    train: UInt8[Array, " n"]
    validation: UInt8[Array, " m"]
    skipped: int = 0


@dataclass(frozen=True, eq=False)
class Batch:
    """B windows of S bytes: ``targets[b, s]`` follows ``tokens[b, s]``; ``domain[b]``, on the host, is their domain."""

    tokens: Int[Array, "B S"]
    targets: Int[Array, "B S"]
    domain: Int[Array, " B"]


class Corpus:
    """The domains to train on, cut into windows.

    Raises:
        ValueError: there is no domain, or two share a name.
    """

    def __init__(self, domains: Iterable[Domain]):
        self.domains = tuple(domains)
        names = [domain.name for domain in self.domains]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a corpus needs domains with different names, got {names}")
        sizes = [domain.train.size for domain in self.domains]
        self._sizes = np.array(sizes)
        self._begins = np.array([sum(sizes[:i]) for i in range(len(sizes))])
        self._texts: dict[str, Any] = {}

    def batch(self, step: int, *, batch_size: int, context: int, seed: int, device: str = "cpu") -> Batch:
        """The training batch of one step: random windows, each of a domain drawn with equal probability.

        Args:
            step: steps completed before this one, from 0.
            batch_size: B, windows.
            context: S, bytes that the model sees in each window.
            seed: a run's seed for data. Equal (seed, step) give equal batches, in any order of calls.
            device: where the batch is to live, and the text from then on.

        Raises:
            ValueError: a size below 1, a negative step or seed, or a domain shorter than a window of
                ``context + 1`` bytes.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._require_a_window(context)
        rng = np.random.default_rng([seed, step])
        domain = rng.integers(len(self.domains), size=batch_size)
        starts = self._begins[domain] + rng.integers(self._sizes[domain] - context)
        text = self._text_on(device)
        xp = array_namespace(text)
        return _batch(text[xp.asarray(starts)[:, None] + xp.arange(context + 1)], domain)

    def validation_windows(self, context: int, limit: int | None = None) -> Batch:
        """Every validation window, in one fixed order: no two overlap, and each domain gives as many.

        The domains take turns, so that any run of consecutive windows mixes them as a training batch does;
        who is dropped for lack of capacity depends on the company in a batch.

        Args:
            context: S, bytes that the model sees in each window.
            limit: at most so many windows of each domain, evenly spread over its validation text.

        Raises:
            ValueError: ``context`` or ``limit`` below 1, or a domain shorter than ``context + 1`` bytes.
        """
        self._require_a_window(context)
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        available = min((d.validation.size - 1) // context for d in self.domains)
        count = available if limit is None else min(limit, available)
        starts = np.arange(count) * available // count * context
        positions = starts[:, None] + np.arange(context + 1)
        windows = np.stack([d.validation[positions] for d in self.domains], axis=1)
        return _batch(windows.reshape(-1, context + 1), np.tile(np.arange(len(self.domains)), count))

    @property
    def largest_byte(self) -> int:
        """The highest token id that occurs: what a model's vocabulary must hold."""
        return max(int(text.max(initial=0)) for d in self.domains for text in (d.train, d.validation))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all names and bytes: a run can only be continued exactly on the text it began with."""
        digest = hashlib.sha256()
        for domain in self.domains:
            for part in (domain.name.encode(), domain.train.tobytes(), domain.validation.tobytes()):
                digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def _text_on(self, device: str) -> UInt8[Array, " n"]:
        """The training text of all domains, one after the other; moved once."""
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
                        f"domain {domain.name!r} has {text.size} bytes of {part} text; a window of "
                        f"context={context} needs {context + 1}"
                    )


def _batch(windows: UInt8[Array, "B W"], domain: Int[Array, " B"]) -> Batch:
    return Batch(windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64), domain)


def encode(text: str) -> Int[Array, " n"]:
    """The UTF-8 bytes of a text as tokens: int64, from 0 to 255."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


def decode(tokens: Integer[Array, " n"]) -> str:
    """The text that tokens spell; bytes that are not UTF-8 become U+FFFD.

    Raises:
        ValueError: a token outside 0 to 255.
    """
    return bytes(tokens.tolist()).decode("utf-8", errors="replace")


def default_corpus() -> Corpus:
    """Three domains with no download: prose, code and arithmetic.

    prose is the text behind ``help("topics")``, code the standard library's modules; both belong to the
    running Python, so two Python versions give different text. arithmetic is generated, always the same.

    Raises:
        CorpusError: this Python was installed without one of them.
    """
    return Corpus(
        [
            Domain("prose", *_hold_out(_prose())),
            Domain("code", *_hold_out(_code(Path(sysconfig.get_path("stdlib"))))),
            Domain("arithmetic", *_arithmetic(np.random.default_rng(_ARITHMETIC_SEED))),
        ]
    )


def text_corpus(paths: Sequence[str | os.PathLike[str]], *, min_bytes: int) -> Corpus:
    """The user's own text: each file or folder is one domain, named after it.

    Folders are read recursively in sorted order. In them, hidden files and folders, links to folders, and
    files that are not UTF-8 text (or contain NUL) are left out; see ``Domain.skipped``.

    Args:
        paths: files and folders, none inside another.
        min_bytes: the least that each must hold; ``bytes_needed(context)`` is enough for one window.

    Raises:
        CorpusError: paths that do not exist, cannot be read, are empty, are not text, are too short or
            overlap; all of them are listed.
    """
    roots = [Path(path) for path in paths]
    problems = [] if roots else ["no path was given"]
    for a, b in itertools.combinations(roots, 2):
        if a.resolve().is_relative_to(b.resolve()) or b.resolve().is_relative_to(a.resolve()):
            problems.append(f"{a} and {b} overlap: validation text of one would be training text of the other")
    domains: dict[str, Domain] = {}
    for root in roots:
        try:
            text, skipped = _read_folder(root) if root.is_dir() else (_read_file(root), 0)
            if len(text) < min_bytes:
                raise CorpusError(f"{root}: has {len(text)} bytes of text, {min_bytes} are needed")
        except FileNotFoundError as error:
            problems.append(f"{error.filename}: does not exist")
        except OSError as error:
            problems.append(f"{error.filename or root}: cannot be read ({error.strerror or error})")
        except CorpusError as error:
            problems.append(str(error))
        else:
            name = _name(root, domains)
            domains[name] = Domain(name, *_hold_out(text), skipped)
    if problems:
        raise CorpusError("cannot train on this text:\n" + "\n".join(f"  {problem}" for problem in problems))
    return Corpus(domains.values())


def bytes_needed(context: int) -> int:
    """The size from which a domain's training and validation text both hold a window of ``context``."""
    return _HELD_OUT_EVERY * (context + 1 + _HELD_OUT_BLOCKS)


def _hold_out(text: bytes) -> tuple[UInt8[Array, " n"], UInt8[Array, " m"]]:
    """Training and validation text. Held-out blocks are spread, as a text's end is seldom like its start."""
    blocks = np.array_split(np.frombuffer(text, np.uint8), _HELD_OUT_BLOCKS * _HELD_OUT_EVERY)
    held_out = range(_HELD_OUT_EVERY // 2, len(blocks), _HELD_OUT_EVERY)
    train = [block for i, block in enumerate(blocks) if i not in held_out]
    return np.concatenate(train), np.concatenate([blocks[i] for i in held_out])


def _prose() -> bytes:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        _not_in_this_python("the module pydoc_data.topics")
    # A topic often repeats sections of a longer one. Longest first, each paragraph once: else validation text
    # would be in the training text too.
    longest_first = sorted(topics.values(), key=lambda text: (-len(text), text))
    paragraphs = dict.fromkeys(textwrap.dedent(p.strip("\n")) for text in longest_first for p in text.split("\n\n"))
    return "\n\n".join(filter(_is_english, paragraphs)).encode()


def _is_english(paragraph: str) -> bool:
    """Whether it is made of sentences: not an example, a table, a heading or a rule of grammar."""
    plain = sum(c.isalpha() or c in " \n" for c in paragraph)
    return paragraph.endswith((".", ":", "?")) and plain > 0.85 * len(paragraph)


def _code(folder: Path) -> bytes:
    """The public top-level modules of the standard library, in the order of their names.

    Names that begin with an underscore are left out: some are generated when Python is built.
    """
    names = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
    texts = []
    size = 0
    for file in (folder / f"{name}.py" for name in names):
        if file.is_file() and size < _CODE_BYTES:
            texts.append(file.read_text(encoding="utf-8").encode())  # as text: the same line ends everywhere
            size += len(texts[-1])
    if not texts:
        _not_in_this_python(f"the standard library's source, expected as {folder}{os.sep}*.py")
    return b"\n".join(texts)


def _not_in_this_python(what: str) -> NoReturn:
    raise CorpusError(
        f"the built-in text is incomplete: this Python ({sys.executable}) comes without {what}; "
        "train on your own files with --text PATH, or use a complete Python"
    )


def _arithmetic(rng: np.random.Generator) -> tuple[UInt8[Array, " n"], UInt8[Array, " m"]]:
    """Lines like ``(3 + 4) * 5 = 35``, four kinds equally often; no problem is in both texts."""
    kinds = [
        [f"{a} + {b} = {a + b}\n" for a in range(100) for b in range(100)],
        [f"{a} - {b} = {a - b}\n" for a in range(100) for b in range(a + 1)],
        [f"{a} * {b} = {a * b}\n" for a in range(32) for b in range(32)],
        [f"({a} + {b}) * {c} = {(a + b) * c}\n" for a in range(1, 21) for b in range(1, 21) for c in range(2, 10)],
    ]
    train: list[str] = []
    validation: list[str] = []
    for problems in kinds:
        rng.shuffle(problems)
        held_out = len(problems) // _HELD_OUT_EVERY
        for lines, pool, count in (
            (validation, problems[:held_out], _ARITHMETIC_LINES // _HELD_OUT_EVERY),
            (train, problems[held_out:], _ARITHMETIC_LINES),
        ):
            lines.extend(pool[i] for i in rng.integers(len(pool), size=count // len(kinds)))
    return _shuffled(train, rng), _shuffled(validation, rng)


def _shuffled(lines: list[str], rng: np.random.Generator) -> UInt8[Array, " n"]:
    rng.shuffle(lines)
    return np.frombuffer("".join(lines).encode(), np.uint8)


def _read_file(file: Path) -> bytes:
    text = file.read_bytes()
    if not text:
        raise CorpusError(f"{file}: is empty")
    if not _is_text(text):
        raise CorpusError(f"{file}: is not text (UTF-8 without NUL)")
    return text


def _read_folder(root: Path) -> tuple[bytes, int]:
    texts = []
    skipped = 0
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for file in (Path(folder, name) for name in sorted(names)):
            # is_file: to read a pipe or a device would wait for ever
            text = file.read_bytes() if file.is_file() and not file.name.startswith(".") else None
            if text is not None and _is_text(text):
                texts.append(text)
            else:
                skipped += 1
    if not texts:
        raise CorpusError(f"{root}: holds no text file ({skipped} skipped)")
    return b"\n".join(texts), skipped


def _raise(error: OSError) -> NoReturn:
    raise error


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def _name(root: Path, taken: Iterable[str]) -> str:
    """The path's last part without suffix; a number makes it unique."""
    resolved = root.resolve()
    name = (resolved.name if root.is_dir() else resolved.stem) or str(resolved)
    numbered = (f"{name}-{n}" for n in itertools.count(2))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in taken)
