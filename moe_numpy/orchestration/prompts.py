"""Prompts of each kind, made from templates: what the router learns from and is measured on.

``templates/KIND.txt`` has a template a line; ``{topic}`` and the like are filled from ``templates/slots.txt``, ``{n}``
with a number and ``{expr}`` with an expression. Templates and fillings are split once: those of training occur in no
held-out prompt. ``templates/none.txt`` has what is none of the kinds, split by language.
"""

import re
import zlib
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from .kinds import KINDS, NONE
from .noise import foreign_lines, noise
from .number_words import in_words
from .splits import TRAIN, split_of
from .word_lists import lexicon, lines_of, lists_of

_SKELETON_SHARE = 0.3  # of the prompts of training
_AREAS = {  # of the lexicon, whose words are asked for, or asked about
    "prose": (("request", ("form", "form", "tone", "writes")),),
    "code": (("request", ("code", "code", "language")), ("question", ("code", "code", "language"))),
    "arithmetic": (("request", ("maths", "number")), ("question", ("maths", "number", "number"))),
    "knowledge": (("question", ("learned", "learned", "land")),),
}
_SLOT = re.compile(r"\{(\w+)\}")
_SIGNS = ("+", "-", "*", "/", "x", "×", "÷", "**", "^", "%", "−")
_SPOKEN = (" plus ", " minus ", " times ", " divided by ", " multiplied by ", " over ", " to the power of ", " mod ")


class Prompt(NamedTuple):
    """A query and its kind, or NONE; and the template it was made from."""

    text: str
    kind: str
    template: str


def prompts(split: str, count: int, seed: int) -> list[Prompt]:
    """Prompts of every kind and none, ``count`` of each, in a fixed order for a seed.

    Args:
        split: TRAIN, VALIDATION or TEST.
        count: of each kind; templates take turns.
        seed: of fillings and noise.
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode())])
    found = []
    for kind in KINDS:
        templates = [line for line in lines_of(f"{kind}.txt") if split_of(line) == split]
        for i in range(count):
            template = templates[i % len(templates)]
            if split == TRAIN and rng.random() < _SKELETON_SHARE:
                template, text = _of_words(kind, rng)
            else:
                text = _filled(template, split, rng)
            found.append(Prompt(_varied(text, rng), kind, template))
    foreign = foreign_lines(split)
    for i in range(count):
        text, made_by = (_sentence(foreign, rng), "language") if i % 2 else noise(rng)
        found.append(Prompt(text, NONE, made_by))
    return found


@cache
def _slots(is_train: bool) -> dict[str, list[str]]:
    """The fillings of each slot."""
    return {
        name: [value for value in values if (split_of(value) == TRAIN) == is_train] or values
        for name, values in lists_of("slots.txt").items()
    }


def _sentence(lines: Sequence[str], rng: np.random.Generator) -> str:
    return lines[int(rng.integers(len(lines)))]


def _filled(template: str, split: str, rng: np.random.Generator) -> str:
    def fill(slot: re.Match[str]) -> str:
        name = slot[1]
        if name == "n":
            return _number(rng)
        if name == "expr":
            return _expression(rng)
        values = _slots(split == TRAIN)[name]
        return values[int(rng.integers(len(values)))]

    return _SLOT.sub(fill, template)


def _of_words(kind: str, rng: np.random.Generator) -> tuple[str, str]:
    """A skeleton with words of the kind, whether or not it makes sense: so that each word is seen in many places."""
    form, areas = _AREAS[kind][int(rng.integers(len(_AREAS[kind])))]
    skeletons = lists_of("skeletons.txt")[form]
    skeleton, words = skeletons[int(rng.integers(len(skeletons)))], lexicon()

    def fill(slot: re.Match[str]) -> str:
        area = areas[int(rng.integers(len(areas)))]
        return _number(rng) if area == "number" else _sentence(words[area], rng)

    return skeleton, re.sub(_SLOT, fill, skeleton)


def _number(rng: np.random.Generator) -> str:
    size = int(rng.choice([10, 100, 1000, 100_000]))
    value = int(rng.integers(size))
    form = rng.random()
    if form < 0.2:
        return f"{value}.{int(rng.integers(1, 100))}"
    if form < 0.45:
        return in_words(value)
    return f"{value:,}" if form < 0.5 else str(value)


def _expression(rng: np.random.Generator) -> str:
    """Two to four numbers with signs, or words, between them."""
    spoken = rng.random() < 0.4
    text = _number(rng)
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
        sign = _SPOKEN[int(rng.integers(len(_SPOKEN)))] if spoken else _SIGNS[int(rng.integers(len(_SIGNS)))]
        if not spoken and rng.random() < 0.7:
            sign = f" {sign} "
        text += sign + _number(rng)
        if not spoken and rng.random() < 0.15:
            text = f"({text})"
    if rng.random() < 0.1:
        text = f"sqrt({text})"
    return text


def _varied(text: str, rng: np.random.Generator) -> str:
    """As people type: capitals, no final mark, a polite frame, a wrong letter."""
    form = rng.random()
    if form < 0.2:
        text = text[:1].upper() + text[1:]
    elif form < 0.3:
        text = text.rstrip("?.! ") or text
    elif form < 0.45:
        text = _sentence(lists_of("words.txt")["openings"], rng) + " " + text
    elif form < 0.52:
        text = text.rstrip("?.! ") + _sentence(lists_of("words.txt")["endings"], rng)
    elif form < 0.56 and len(text) > 12:
        at = int(rng.integers(1, len(text) - 1))
        text = text[:at] + text[at + 1 :]
    elif form < 0.59:
        text = text.upper()
    return text
