"""The texts of the four specialists, from what is installed with Python and this package: nothing is downloaded."""

import importlib.util
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..training.built_in_text import is_english, python_code, python_prose
from .facts import facts
from .number_words import in_words

_DOCUMENTED = ("numpy", "scipy")  # their docstrings have paragraphs of prose
_PROSE_BYTES = 1_200_000
_ARITHMETIC_LINES = 30_000
_SEED = 1


def texts() -> dict[str, bytes]:
    """The text of each kind of :data:`~moe_numpy.orchestration.kinds.KINDS`; no line of arithmetic or knowledge twice.

    Raises:
        CorpusError: this Python comes without its source or its help.
    """
    return {"prose": _prose(), "code": python_code(), "arithmetic": _arithmetic(), "knowledge": _knowledge()}


def _prose() -> bytes:
    paragraphs = dict.fromkeys(python_prose().decode().split("\n\n"))
    paragraphs |= dict.fromkeys(p for p in _paragraphs_of_docstrings() if is_english(p) and len(p) > 80)
    text = "\n\n".join(paragraphs).encode()
    return text[: text.rfind(b"\n\n", 0, _PROSE_BYTES)] if len(text) > _PROSE_BYTES else text


def _paragraphs_of_docstrings() -> Iterator[str]:
    """Of installed packages; the standard library's are in the text of code."""
    for package in _DOCUMENTED:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for file in sorted(Path(folder).rglob("*.py")):
                if "tests" not in file.parts:
                    for docstring in re.findall(r'"""(.*?)"""', file.read_text("utf-8", "ignore"), re.DOTALL):
                        yield from (textwrap.dedent(p.strip("\n")).strip() for p in docstring.split("\n\n"))


def _arithmetic() -> bytes:
    """Lines such as ``12 + 7 = 19`` and ``nine times four is thirty-six``, in random order."""
    rng = np.random.default_rng(_SEED)
    lines: dict[str, None] = {}
    while len(lines) < _ARITHMETIC_LINES:
        a, b = (int(n) for n in rng.integers(0, 100, 2))
        c = int(rng.integers(2, 10))
        forms = (
            f"{a} + {b} = {a + b}",
            f"{max(a, b)} - {min(a, b)} = {abs(a - b)}",
            f"{a} * {c} = {a * c}",
            f"({a} + {b}) * {c} = {(a + b) * c}",
            f"{a * c} / {c} = {a}",
            f"{in_words(a)} plus {in_words(b)} is {in_words(a + b)}",
            f"{in_words(a)} times {in_words(c)} is {in_words(a * c)}",
            f"What is {a} minus {b}? {a - b}",
            f"{a} squared is {a * a}",
        )
        lines[forms[int(rng.integers(len(forms)))]] = None
    return "".join(f"{line}\n" for line in lines).encode()


def _knowledge() -> bytes:
    """The facts in random order, without Python's help, which is in the text of prose."""
    lines = [fact.text for fact in facts() if not fact.source.startswith("help")]
    np.random.default_rng(_SEED).shuffle(lines)
    return "".join(f"{line}\n" for line in lines).encode()
