"""What is none of the kinds: other languages, small talk, random bytes, letters and signs."""

from functools import cache

import numpy as np

from .splits import TRAIN, split_of
from .word_lists import lists_of


@cache
def foreign_lines(split: str) -> list[str]:
    """Lines of other languages; the held-out languages are not those of training."""
    groups = lists_of("none.txt")
    both = ("chat", "mash")  # each has entries for training and others
    names = [name for name in groups if name not in both]
    held_out = names[len(names) * 3 // 5 :]
    found = []
    for name, entries in groups.items():
        for entry in entries:
            of_train = split_of(entry) == TRAIN if name in both else name not in held_out
            if of_train == (split == TRAIN):
                found.append(entry)
    return found


def noise(rng: np.random.Generator) -> tuple[str, str]:
    """Random bytes, letters, syllables or signs; sometimes nothing."""
    form, size = int(rng.integers(5)), int(rng.integers(1, 60))
    if form == 0:
        return rng.bytes(size).decode("utf-8", errors="replace"), "bytes"
    if form == 1:
        letters = "abcdefghijklmnopqrstuvwxyz    "
        return "".join(letters[i] for i in rng.integers(len(letters), size=size)), "letters"
    if form == 2:
        words = (
            "".join(rng.choice(lists_of("words.txt")["syllables"], int(rng.integers(1, 5))))
            for _ in range(1 + size // 8)
        )
        return " ".join(words), "syllables"
    if form == 3:
        return "".join(chr(i) for i in rng.integers(33, 127, size=size)), "characters"
    return " " * (size % 3), "nothing"
