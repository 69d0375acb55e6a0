"""Guessing what comes next from the text itself: what followed the same words before."""

from collections.abc import Iterable

_LONGEST = 3  # tokens that a guess has in common with what came before it


class PromptLookup:
    """A text that grows, and what followed each of its words (Saxena 2023, "Prompt Lookup Decoding").

    It looks for the latest place where the last three tokens came before; if there is none, the last two, or the last.

    Args:
        text: its first tokens.
    """

    def __init__(self, text: Iterable[int] = ()):
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # by the tokens before it: the latest position
        for token in text:
            self.append(token)

    def append(self, token: int) -> None:
        """The text goes on."""
        length = len(self._text)
        for words in range(1, min(_LONGEST, length) + 1):
            self._after[tuple(self._text[length - words :])] = length
        self._text.append(token)

    def guess(self, count: int) -> list[int]:
        """What may follow: ``count`` tokens, or none. What ends with the text goes on as it began there."""
        length = len(self._text)
        for words in range(min(_LONGEST, length), 0, -1):
            start = self._after.get(tuple(self._text[length - words :]))
            if start is not None:
                return [self._text[start + i % (length - start)] for i in range(count)]
        return []


def guesses_after(right: int) -> int:
    """How many tokens to guess, after a call in which so many guesses were right: 2 right + 1.

    Where a text repeats itself the number grows, and where it does not a wrong guess costs little: with experts, each
    token more in a call makes it read more weights.
    """
    return 2 * right + 1
