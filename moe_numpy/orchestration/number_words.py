"""Whole numbers as English words, both ways."""

from collections.abc import Sequence

# fmt: off
_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]
# fmt: on
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: n for n, word in enumerate(_ONES)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DOZENS = {"dozen": 12}

WORDS = frozenset((*_SMALL, *_SCALES, *_DOZENS, "hundred"))
"""What a number in words consists of, besides "and" between two of these, and "a" before hundred and more."""


def in_words(number: int) -> str:
    """A whole number as words, for instance ``one thousand two hundred and thirty-four``.

    Raises:
        ValueError: the number is a quadrillion or more, or less than minus that.
    """
    if abs(number) >= 1000 * 10**12:
        raise ValueError(f"number must be below a quadrillion, got {number}")
    if number < 0:
        return f"minus {in_words(-number)}"
    for name, scale in reversed(_SCALES.items()):
        if number >= scale:
            rest = number % scale
            more = f"{' and' if rest < 100 else ''} {in_words(rest)}" if rest else ""
            return f"{in_words(number // scale)} {name}{more}"
    if number >= 100:
        return f"{_ONES[number // 100]} hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")
    if number >= 20:
        return _TENS[number // 10 - 2] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    return _ONES[number]


def number_of(words: Sequence[str]) -> int:
    """The whole number that words say, for instance ``["two", "hundred", "and", "six"]``; "a" counts 1.

    Raises:
        ValueError: they do not say one number, as ``["two", "three"]`` or ``["thousand", "twenty", "thirty"]``.
    """
    said = [word for word in words if word != "and"]
    wrong = ValueError(f"{' '.join(words)!r} is not one number")
    total, group, last_scale = 0, 0, 10**15
    room = 10**15  # what is added to the group must be below this
    for position, word in enumerate(said):
        value = 1 if word in ("a", "an") and position == 0 and len(said) > 1 else _SMALL.get(word)
        if value is not None:
            if value >= room or (value == 0 and len(said) > 1):
                raise wrong
            group += value
            room = 10 if value >= 20 else 1
        elif word == "hundred" and 0 <= group < 100 and (group or position == 0):
            group, room = max(group, 1) * 100, 100
        elif word in _DOZENS and position == len(said) - 1 and room > 0:
            group, room = max(group, 1) * _DOZENS[word], 0
        elif word in _SCALES and _SCALES[word] < last_scale and (group or position == 0):
            last_scale = _SCALES[word]
            total, group, room = total + max(group, 1) * last_scale, 0, last_scale
        else:
            raise wrong
    return total + group
