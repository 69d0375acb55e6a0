"""A query as hashed features: which words and character sequences it has, without a vocabulary.

Feature hashing (Weinberger et al. 2009, arXiv 0902.2206) without signs: a feature's index is its CRC-32 modulo the
number of weights. Collisions are few, since a query has some hundred features of ``NUM_FEATURES``.
"""

import re
import unicodedata
import zlib
from functools import cache
from itertools import pairwise

import numpy as np

from ..typing import Array, Float, Int
from .number_words import WORDS
from .word_lists import common_words, lexicon, lists_of

NUM_FEATURES = 1 << 16
MAX_CHARACTERS = 600  # of a query; the rest does not change what it is about
_PARTS = re.compile(r"c\+\+|c#|[^\W\d_]+(?:'[^\W\d_]+)?|\d+(?:[.,]\d+)*|[^\w\s]|_")


def parts(text: str) -> list[str]:
    """Words, numbers and signs of a text in lower case; numbers, also in words, become their shape."""
    found = []
    for part in _PARTS.findall(unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).lower()):
        if part[0].isdigit():
            digits = len(part)
            shape = (
                "#."
                if "." in part or "," in part
                else "#year"
                if digits == 4 and part < "2200"
                else f"#{min(digits, 3)}"
            )
            found.append(shape)
        elif part in WORDS:
            found.append("#word")
        else:
            found.append(part)
    return found


def features(text: str) -> tuple[Int[Array, " f"], Float[Array, " f"]]:
    """Indices of the features of a text and their values, of which the squares sum to 1; equal indices are merged."""
    of_text = _without_frame(parts(text))
    names: list[str] = [f"w:{part}" for part in of_text]
    names += [f"b:{a} {b}" for a, b in pairwise(["<", *of_text, ">"])]
    names += [f"t:{a} {b} {c}" for a, b, c in zip(of_text, of_text[1:], of_text[2:], strict=False)]
    names += [f"s:{of_text[0]} {part}" for part in dict.fromkeys(of_text[1:12])]
    tagged = [
        tag
        for part in of_text
        for tag in _areas().get(part, (part if part in common_words("common") or part[0] == "#" else "~",))
    ]
    names += [f"f:{' '.join(of_text[:n])}" for n in (1, 2)] + [f"j:{' '.join(tagged[:n])}" for n in (1, 2, 3)]
    names += [f"g:{tag}" for tag in tagged]
    names += [f"h:{a} {b}" for a, b in pairwise(["<", *tagged, ">"])]
    names += [f"i:{tagged[0]} {tag}" for tag in dict.fromkeys(tagged[1:12])]
    names += [f"c:{gram}" for part in of_text if part[0].isalpha() for gram in _grams(f"<{part}>")]
    found: dict[int, float] = {}
    for name in names:
        index = zlib.crc32(name.encode("utf-8", "surrogatepass")) % NUM_FEATURES
        found[index] = found.get(index, 0.0) + _weight(name)
    values = np.sqrt(np.array(list(found.values()), np.float32))  # the second time says less than the first
    values /= max(float(np.sqrt((values**2).sum())), 1e-9)
    whole = _whole_text(text, of_text)
    indices = np.array([*found, *(zlib.crc32(name.encode()) % NUM_FEATURES for name in whole)], np.int64)
    return indices, np.concatenate([values, np.full(len(whole), 0.35, np.float32)])


@cache
def _areas() -> dict[str, tuple[str, ...]]:
    """The areas of each word of the lexicon."""
    found: dict[str, tuple[str, ...]] = {}
    for area, words in lexicon().items():
        for word in words:
            found[word] = (*found.get(word, ()), f"@{area}")
    return found


@cache
def _frames() -> list[list[str]]:
    return [frame.split() for frame in lists_of("words.txt")["frames"]]


def _without_frame(of_text: list[str]) -> list[str]:
    """Without what people say before they ask; all of it if nothing would be left."""
    at = 0
    while frame := next((f for f in _frames() if of_text[at : at + len(f)] == f), None):
        at += len(frame)
    return of_text[at:] or of_text


def _weight(name: str) -> float:
    return {"c": 0.2, "t": 0.5, "g": 1.5}.get(name[0], 1.0)


def _grams(word: str) -> list[str]:
    return [word[i : i + n] for n in (3, 4, 5) for i in range(len(word) - n + 1)]


def _whole_text(text: str, of_text: list[str]) -> list[str]:
    """What is said of all of it: how many words are common English ones, which signs and scripts, how long."""
    words = [part for part in of_text if part[0].isalpha()]
    common = sum(word in common_words("common") for word in words) / max(len(words), 1)
    numbers = sum(part[0] == "#" for part in of_text)
    signs = sum(not part[0].isalpha() and part[0] != "#" for part in of_text)
    letters = sum(c.isalpha() for c in text)
    latin = sum(c.isascii() and c.isalpha() for c in text) / max(letters, 1)
    strange = sum(
        c == "\ufffd" or (unicodedata.category(c) in ("Cc", "Co", "Cn", "Cs") and c not in "\t\n") for c in text
    )
    return [
        f"words {min(len(words), 6)}, common {int(common * 5)}",
        f"numbers {min(numbers, 4)}",
        f"signs {min(int(6 * signs / max(len(of_text), 1)), 6)}",
        f"numbers {min(numbers, 2)}, words {min(len(words), 3)}",
        f"latin {int(latin * 4)}",
        f"strange {min(strange, 2)}",
        f"length {min(len(of_text), 4)}",
    ]
