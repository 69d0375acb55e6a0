"""Going through a list of words, numbers and signs, from left to right; and the numbers in it."""

from .arithmetic_words import NotArithmetic
from .number_words import WORDS, number_of

_LARGE = ("hundred", "thousand", "million", "billion", "trillion")


class TokenReader:
    """Tokens, and the position up to which they are read.

    Args:
        tokens: see :func:`~moe_numpy.orchestration.arithmetic_words.tokens`.
    """

    def __init__(self, tokens: list[str]):
        self.tokens, self.at = tokens, 0

    def peek(self, *phrases: str) -> str | None:
        """The longest of these that comes next."""
        rest = self.tokens[self.at : self.at + 6]
        fitting = [phrase for phrase in phrases if rest[: len(phrase.split())] == phrase.split()]
        return max(fitting, key=lambda phrase: len(phrase.split()), default=None)

    def skip(self, phrase: str) -> None:
        """Go past a phrase that comes next."""
        self.at += len(phrase.split())

    def take(self, *phrases: str) -> bool:
        """Go past the longest of these that comes next; whether there was one."""
        found = self.peek(*phrases)
        if found is not None:
            self.skip(found)
        return found is not None

    def require(self, phrase: str) -> None:
        """Go past a phrase. NotArithmetic if something else comes next."""
        if not self.take(phrase):
            raise self.expected(repr(phrase))

    def ends_with(self, words: list[str]) -> bool:
        """Whether the tokens end with these, which are then gone."""
        ends = len(self.tokens) - self.at >= len(words) and self.tokens[-len(words) :] == words
        if ends:
            del self.tokens[-len(words) :]
        return ends

    def expected(self, what: str) -> NotArithmetic:
        """The error for what comes next."""
        got = repr(self.tokens[self.at]) if self.at < len(self.tokens) else "the end"
        return NotArithmetic(f"expected {what}, got {got}")

    def number_words(self) -> str | None:
        """A number in words, ``three point five`` included; None if none comes next."""
        begin = end = self.at
        while end < len(self.tokens):
            word = self.tokens[end]
            following = self.tokens[end + 1] if end + 1 < len(self.tokens) else ""
            joins = word == "and" and end > begin and self.tokens[end - 1] in _LARGE and following in WORDS
            article = word in ("a", "an") and end == begin and following in (*_LARGE, "dozen")
            if not (word in WORDS or joins or article):
                break
            end += 1
        if begin == end:
            return None
        try:
            number = str(number_of(self.tokens[begin:end]))
        except ValueError as error:
            raise NotArithmetic(str(error)) from error
        self.at = end
        if self.take("point"):
            digits = ""
            while self.at < len(self.tokens) and self.tokens[self.at] in WORDS:
                digits += str(number_of([self.tokens[self.at]]))
                self.at += 1
            if not digits:
                raise self.expected("digits")
            number = f"{number}.{digits}"
        return number

    def digits(self) -> str | None:
        """A number in digits, ``2 million`` included; None if none comes next."""
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if not (token[:1].isdigit() or (token[:1] == "." and len(token) > 1)):
            return None
        self.at += 1
        scale = self.peek(*_LARGE, "dozen")
        if scale:
            self.skip(scale)
            return f"({token} * {number_of([scale])})"
        return str(int(token)) if token.isdigit() else f"0{token}" if token[0] == "." else token
