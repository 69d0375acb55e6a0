"""Prompts of each kind, made from templates: what the router learns from and is measured on.

``templates/KIND.txt`` has a template a line; ``{topic}`` and the like are filled from ``templates/slots.txt``, ``{n}`` with a
number and ``{expr}`` with an expression. Templates and fillings are split once: those of training occur in no held-out
prompt. ``templates/none.txt`` has what is none of the kinds, split by language.
"""

import re
import zlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np

from .kinds import KINDS, NONE
from .number_words import in_words

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_TEST_SHARE, _VALIDATION_SHARE = 15, 10  # per cent of templates; the fillings of both are the same, not those of train
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
_SYLLABLES = "ka lo mi ter vu shen dra pol qui ze na fro gul bi wex tam ry sko une dal".split()

_FRAMES = (
    "please ", "hey, ", "hi, ", "hello, ", "quick question: ", "can you help me? ", "ok, ", "now ", "I need help: ",
    "could you ", "can you ", "would you ", "would you mind: ", "I was wondering, ", "I'd like to know: ", "one more thing: ",
    "so ", "well, ", "and ", "my question is: ", "for my homework: ", "for work: ", "my son asks: ", "help me: ", "then ",
    "I want you to ", "let's ", "is it possible to say: ", "kindly ", "next: ", "first ", "also ",
)  # fmt: skip
_ENDS = (" please", ", thanks", "?", " !", " pls", "??", " for me", ", thank you", " as soon as you can", " in short", ".")


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
    foreign = _foreign(split)
    for i in range(count):
        text, made_by = (_sentence(foreign, rng), "language") if i % 2 else _noise(rng)
        found.append(Prompt(text, NONE, made_by))
    return found


def split_of(text: str) -> str:
    """Which split a template belongs to: a property of its text alone, so that adding one moves no other."""
    share = zlib.crc32(text.encode()) % 100
    return TEST if share < _TEST_SHARE else VALIDATION if share < _TEST_SHARE + _VALIDATION_SHARE else TRAIN


@cache
def lines_of(file: str) -> list[str]:
    """The lines of a file of templates."""
    return (resources.files(__package__) / "templates" / file).read_text("utf-8").splitlines()


@cache
def lexicon() -> dict[str, list[str]]:
    """Words by the area that they belong to, such as languages, forms of writing, or countries."""
    return {area: words.split() for area, _, words in (line.partition(": ") for line in lines_of("lexicon.txt"))}


@cache
def _slots(is_train: bool) -> dict[str, list[str]]:
    """The fillings of each slot."""
    found = {}
    for line in lines_of("slots.txt"):
        name, _, values = line.partition(": ")
        every = values.split(" | ")
        found[name] = [value for value in every if (split_of(value) == TRAIN) == is_train] or every
    return found


@cache
def _foreign(split: str) -> list[str]:
    """Lines of other languages; the held-out languages are not those of training."""
    groups = dict(line.split(": ", 1) for line in lines_of("none.txt"))
    both = ("chat", "mash")  # each has entries for training and others
    names = [name for name in groups if name not in both]
    held_out = names[len(names) * 3 // 5 :]
    found = []
    for name, text in groups.items():
        for entry in text.split(" | "):
            of_train = split_of(entry) == TRAIN if name in both else name not in held_out
            if of_train == (split == TRAIN):
                found.append(entry)
    return found


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
    skeletons = dict(line.split(": ", 1) for line in lines_of("skeletons.txt"))[form].split(" | ")
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
        text = _sentence(_FRAMES, rng) + text
    elif form < 0.52:
        text = text.rstrip("?.! ") + _sentence(_ENDS, rng)
    elif form < 0.56 and len(text) > 12:
        at = int(rng.integers(1, len(text) - 1))
        text = text[:at] + text[at + 1 :]
    elif form < 0.59:
        text = text.upper()
    return text


def _noise(rng: np.random.Generator) -> tuple[str, str]:
    """Random bytes, letters, syllables or signs; sometimes nothing."""
    form, size = int(rng.integers(5)), int(rng.integers(1, 60))
    if form == 0:
        return rng.bytes(size).decode("utf-8", errors="replace"), "bytes"
    if form == 1:
        letters = "abcdefghijklmnopqrstuvwxyz    "
        return "".join(letters[i] for i in rng.integers(len(letters), size=size)), "letters"
    if form == 2:
        words = ("".join(rng.choice(_SYLLABLES, int(rng.integers(1, 5)))) for _ in range(1 + size // 8))
        return " ".join(words), "syllables"
    if form == 3:
        return "".join(chr(i) for i in rng.integers(33, 127, size=size)), "characters"
    return " " * (size % 3), "nothing"
