"""The text that ships with Python: prose, code and generated arithmetic, with no download."""

import os
import sys
import sysconfig
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import UInt8

from ..typing import Array
from .corpus import HELD_OUT_EVERY, Corpus, CorpusError, Domain
from .encoding import Encode, domain_of, domain_of_blocks

_CODE_BYTES = 1_500_000
_ARITHMETIC_LINES = 36_000
_ARITHMETIC_SEED = 1


def default_corpus(encode: Encode | None = None) -> Corpus:
    """Three domains with no download: prose, code and arithmetic.

    prose is the text behind ``help("topics")``, code the standard library's modules; both differ between Python
    versions. arithmetic is generated, always the same.

    Args:
        encode: makes tokens of a text; by default they are its bytes.

    Raises:
        CorpusError: this Python lacks one of them.
    """
    train, validation = _arithmetic(np.random.default_rng(_ARITHMETIC_SEED))
    return Corpus(
        [
            domain_of("prose", python_prose(), encode),
            domain_of("code", python_code(), encode),
            Domain("arithmetic", train, validation)
            if encode is None
            else domain_of_blocks("arithmetic", [train.tobytes()], [validation.tobytes()], encode),
        ]
    )


def python_prose() -> bytes:
    """The sentences behind ``help("topics")``, each paragraph once. CorpusError if this Python lacks them."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        _not_in_this_python("the module pydoc_data.topics")
    # A topic often repeats sections of a longer one. Longest first, each paragraph once: otherwise validation text
    # would also be in the training text.
    longest_first = sorted(topics.values(), key=lambda text: (-len(text), text))
    paragraphs = dict.fromkeys(textwrap.dedent(p.strip("\n")) for text in longest_first for p in text.split("\n\n"))
    return "\n\n".join(filter(is_english, paragraphs)).encode()


def is_english(paragraph: str) -> bool:
    """Whether it consists of sentences: no example, table, heading or grammar rule."""
    plain = sum(c.isalpha() or c in " \n" for c in paragraph)
    return paragraph.endswith((".", ":", "?")) and plain > 0.85 * len(paragraph)


def python_code(folder: Path | zipfile.Path | None = None) -> bytes:
    """The public top-level modules of the standard library in this folder, by default its own, sorted by name.

    Names with a leading underscore are left out: some are generated when Python is built.

    Raises:
        CorpusError: there are none.
    """
    names = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
    for place in _libraries() if folder is None else [folder]:
        texts: list[bytes] = []
        size = 0
        for file in (place / f"{name}.py" for name in names):
            if file.is_file() and size < _CODE_BYTES:
                texts.append(file.read_text(encoding="utf-8").encode())  # as text: the same line ends on every system
                size += len(texts[-1])
        if texts:
            return b"\n".join(texts)
    expected = folder or next(_libraries())
    _not_in_this_python(f"the standard library's source, expected as {expected}{os.sep}*.py")


def _libraries() -> Iterator[Path | zipfile.Path]:
    """Where the standard library may be: its folder, then the archives that modules come from, as in a browser."""
    yield Path(sysconfig.get_path("stdlib"))
    yield from (zipfile.Path(entry) for entry in sys.path if zipfile.is_zipfile(entry))


def _not_in_this_python(what: str) -> NoReturn:
    raise CorpusError(
        f"the built-in text is incomplete: this Python ({sys.executable}) comes without {what}; "
        "train on your own files with --text PATH, or use a complete Python"
    )


def _arithmetic(rng: np.random.Generator) -> tuple[UInt8[Array, " n"], UInt8[Array, " m"]]:
    """Lines like ``(3 + 4) * 5 = 35``, four kinds equally often; training and validation share no problem."""
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
        held_out = len(problems) // HELD_OUT_EVERY
        for lines, pool, count in (
            (validation, problems[:held_out], _ARITHMETIC_LINES // HELD_OUT_EVERY),
            (train, problems[held_out:], _ARITHMETIC_LINES),
        ):
            lines.extend(pool[i] for i in rng.integers(len(pool), size=count // len(kinds)))
    return _shuffled(train, rng), _shuffled(validation, rng)


def _shuffled(lines: list[str], rng: np.random.Generator) -> UInt8[Array, " n"]:
    rng.shuffle(lines)
    return np.frombuffer("".join(lines).encode(), np.uint8)
