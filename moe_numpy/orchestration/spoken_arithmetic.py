"""Arithmetic as people write it, read as an expression: ``what is 15 % of eighty?`` becomes ``15/100*80``.

A recursive descent over words, numbers and signs, with the precedence of school: powers, then products, then sums. All
of a query must be read, or nothing is: "write python that multiplies 17 and 23" is no arithmetic.
"""

from fractions import Fraction

from .arithmetic_words import (
    BINARY,
    CLOSINGS,
    DIVISIONS,
    FACTORS,
    FUNCTIONS,
    LAST,
    LEVELS,
    LISTS,
    OPENINGS,
    SHARES,
    VERBS,
    NotArithmetic,
    tokens,
)
from .calculator import MAX_CHARACTERS
from .number_words import WORDS, number_of


def expression_of(query: str, last: Fraction | None = None) -> str:
    """The expression that a query is, in the notation of :func:`~moe_numpy.orchestration.calculator.calculate`.

    Args:
        query: what was asked.
        last: the last result of the conversation: what "that" means, and what "and times 3?" continues.

    Raises:
        NotArithmetic: a word or sign is no part of an expression, or the expression is not complete.
    """
    if len(query) > MAX_CHARACTERS:
        raise NotArithmetic(f"arithmetic may have {MAX_CHARACTERS} characters, this has {len(query)}")
    reader = _Reader(tokens(query), last)
    try:
        expression = reader.whole()
    except RecursionError as error:
        raise NotArithmetic("parentheses or signs are nested too deeply") from error
    if not reader.has_operation:
        raise NotArithmetic("expected an operation, got a number alone")
    return expression


class _Reader:
    """Reads tokens from left to right; each method returns the expression of what it has read."""

    def __init__(self, tokens: list[str], last: Fraction | None):
        self.tokens, self.at, self.last, self.has_operation = tokens, 0, last, False

    def whole(self) -> str:
        while self._take(*OPENINGS) or self._take(",", ":"):
            pass
        while any(self._ends_with(words.split()) for words in CLOSINGS):
            pass
        if not self.tokens[self.at :]:
            raise NotArithmetic("expected numbers and operations, got none")
        begins = self.tokens[self.at]
        if self.last is not None and (self._peek(*BINARY) and begins not in "+-%("):
            expression = self._sum(1, self._last_result())  # "and times 3?"
        else:
            expression = self._sum()
        while self._peek(*(f", {sign}" for sign in BINARY)):  # a comma ends what comes before it
            self._take(",")
            expression = self._sum(1, f"({expression})")
        if self.at < len(self.tokens):
            raise self._expected("an operation or the end")
        return expression

    def _sum(self, level: int = 1, left: str | None = None) -> str:
        """Operations of this level and above: precedence climbing."""
        left = self._unary() if left is None else left
        while (words := self._operation()) is not None:
            sign = BINARY.get(words, "*")
            if LEVELS[sign] < level:
                break
            self._skip(words)
            self.has_operation = True
            if sign == "**":
                left = f"{left}**{self._unary()}"  # binds to the right: 2 ** 3 ** 2
                continue
            start = self.at
            right = self._sum(LEVELS[sign] + 1)
            if sign in "+-" and self.tokens[self.at - 1] in ("%", "percent") and self.at - start == 2:
                raise NotArithmetic(
                    f"'{sign} {self.tokens[start]} percent' has two meanings: "
                    "write 'increase 80 by 15 percent' or '80 + 0.15'"
                )
            left = f"{left} {sign} {right}"
        return left

    def _operation(self) -> str | None:
        """What comes next, if it is an operation; also the "of" in ``3/4 of 20``."""
        of_fraction = self.at > 2 and self.tokens[self.at - 2] in ("/", "over")
        return self._peek(*BINARY) or (self._peek("of") if of_fraction else None)

    def _unary(self) -> str:
        if self._take("-", "minus", "negative"):
            operand = self._unary()
            return f"-{operand}"
        self._take("+", "the", "of")
        number = self._power(self._primary())
        return number

    def _power(self, number: str) -> str:
        """What stands behind a number: squared, factorial, percent of, thirds of, a power."""
        while True:
            if self._take("squared", "cubed"):
                power = 2 if self.tokens[self.at - 1] == "squared" else 3
                number = f"({number})**{power}" if "**" in number else f"{number}**{power}"
            elif self._take("!", "factorial"):
                number = f"factorial({number})"
            elif self._peek("percent", "%") and self._is_percent():
                self._take("percent", "%")
                if self._take("off"):
                    number = f"({self._unary()} * (1 - {number}/100))"
                else:
                    number = f"({number}/100 * {self._unary()})" if self._take("of") else f"({number}/100)"
            elif (part := self._peek("and a half", "and a quarter", "and a third")) is not None:
                self._skip(part)
                number = f"({number} + 1/{SHARES[part.split()[-1]]})"
            elif (share := self._peek(*SHARES)) is not None:
                self._skip(share)
                number = f"({number}/{SHARES[share]}{f' * {self._unary()}' if self._of() else ''})"
            elif self._take("increased by", "decreased by", "reduced by"):
                number = self._changed(number, "+" if self.tokens[self.at - 2] == "increased" else "-")
            elif sign := self._peek(
                "**", "^", "to the power of", "to the power", "raised to the power of", "raised to"
            ):
                self._skip(sign)
                number = f"{number}**{self._unary()}"
            else:
                return number
            self.has_operation = True

    def _is_percent(self) -> bool:
        """Whether a % is per cent: not before a number, which would make it modulo."""
        after = self.tokens[self.at + 1 : self.at + 2]
        if self.tokens[self.at] == "percent":
            return True
        return not after or after[0] in (
            "of",
            "off",
            "+",
            "-",
            "*",
            "/",
            ")",
            ",",
            "plus",
            "minus",
            "times",
            "divided",
            "and",
            "to",
        )

    def _changed(self, number: str, sign: str) -> str:
        by = self._primary()
        if self._take("percent", "%"):
            return f"({number} * (1 {sign} {by}/100))"
        return f"({number} {sign} {by})"

    def _primary(self) -> str:
        while self._take("the", "a result of"):
            pass
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if token == "(":
            self.at += 1
            inside = self._sum()
            self._require(")")
            return f"({inside})"
        if token[:1].isdigit() or (token[:1] == "." and len(token) > 1):
            self.at += 1
            scale = self._peek("hundred", "thousand", "million", "billion", "trillion")
            if scale:
                self._skip(scale)
                return f"({token} * {number_of([scale])})"
            return str(int(token)) if token.isdigit() else f"0{token}" if token[0] == "." else token
        for read in (self._number_words, self._function, self._list, self._part, self._verb, self._remainder):
            found = read()
            if found is not None:
                return found
        if self.last is not None and self._take(*LAST):
            return self._last_result()
        raise self._expected("a number")

    def _number_words(self) -> str | None:
        begin = end = self.at
        while end < len(self.tokens):
            word = self.tokens[end]
            following = self.tokens[end + 1] if end + 1 < len(self.tokens) else ""
            joins = (
                word == "and"
                and end > begin
                and self.tokens[end - 1] in ("hundred", "thousand", "million", "billion")
                and following in WORDS
            )
            article = (
                word in ("a", "an")
                and end == begin
                and following in ("hundred", "thousand", "million", "billion", "dozen")
            )
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
        if self._take("point"):
            digits = ""
            while self.at < len(self.tokens) and self.tokens[self.at] in WORDS:
                digits += str(number_of([self.tokens[self.at]]))
                self.at += 1
            if not digits:
                raise self._expected("digits")
            number = f"{number}.{digits}"
        return number

    def _function(self) -> str | None:
        name = self._peek(*FUNCTIONS)
        if name is None:
            return None
        self._skip(name)
        self.has_operation = True
        self._take("of")
        if self._take("("):
            arguments = [self._sum()]
            while self._take(","):
                arguments.append(self._sum())
            self._require(")")
        elif FUNCTIONS[name] in ("gcd", "lcm", "mean", "max", "min"):
            arguments = self._numbers()
        else:
            arguments = [self._sum(3)]
        return f"{FUNCTIONS[name]}({', '.join(arguments)})"

    def _list(self) -> str | None:
        name = self._peek(*LISTS)
        if name is None:
            return None
        self._skip(name)
        if not self._take("of", "between"):
            raise self._expected("'of'")
        self.has_operation = True
        sign, numbers = LISTS[name], self._numbers()
        if name == "difference":
            return f"abs({' - '.join(map(_grouped, numbers))})" if len(numbers) == 2 else self._two(name)
        if name == "quotient" and len(numbers) != 2:
            return self._two(name)
        return f"({f' {sign} '.join(map(_grouped, numbers))})"

    def _two(self, name: str) -> str:
        raise NotArithmetic(f"a {name} is of two numbers")

    def _numbers(self) -> list[str]:
        """Numbers with commas or "and" between them."""
        numbers = [self._sum(2)]
        while not self._peek(*(f", {sign}" for sign in BINARY)) and self._take(", and", ",", "and"):
            numbers.append(self._sum(2))
        return numbers

    def _part(self) -> str | None:
        """Half of 8, a third of 9, twice 4, halve that."""
        if (factor := self._peek(*FACTORS)) is not None:
            self._skip(factor)
            self.has_operation = True
            return f"({FACTORS[factor]} * {self._unary()})"
        if self._take("square", "cube"):
            power = 2 if self.tokens[self.at - 1] == "square" else 3
            self._take("of")
            self.has_operation = True
            return f"({self._unary()})**{power}"
        if self._take("halve"):
            self.has_operation = True
            return f"({self._unary()}/2)"
        start = self.at
        self._take("a", "an")
        share = self._peek(*SHARES)
        if share is None:
            self.at = start
            return None
        self._skip(share)
        self.has_operation = True
        return f"(1/{SHARES[share]}{f' * {self._unary()}' if self._of() else ''})"

    def _of(self) -> bool:
        return self._take("of") or self._peek("a dozen", "a hundred", "a thousand", "a million") is not None

    def _verb(self) -> str | None:
        """Add 3 and 4, subtract 3 from 10, multiply 3 by 4, increase 80 by 15 percent."""
        if self._take("increase", "decrease", "reduce"):
            sign = "+" if self.tokens[self.at - 1] == "increase" else "-"
            number = self._sum(2)
            self._require("by")
            self.has_operation = True
            return self._changed(number, sign)
        verb = self._peek(*VERBS)
        if verb is None:
            return None
        self._skip(verb)
        self.has_operation = True
        if verb == "take" and (self._peek(*FUNCTIONS) or self._peek(*(f"the {name}" for name in FUNCTIONS))):
            return self._primary()
        self._take("up", "together", "away")
        sign = VERBS[verb]
        joins = ("from",) if sign == "-" else ("by",) if sign == "/" else ("and", "to", "with", "by", ",")
        if sign in "*/-" and self.last is not None and self._take("by"):  # "divide by 3"
            return f"({self._last_result()} {sign} {_grouped(self._sum(2))})"
        first = self._percentage_off() if verb == "take" else None
        if first is not None:
            return first
        numbers = [self._sum(2)]
        while self._take(*joins):
            self._take("and")
            numbers.append(self._sum(2))
        if len(numbers) < 2 and self.last is not None:
            numbers = [self._last_result(), *numbers]  # "add 5"
            return f"({f' {sign} '.join(map(_grouped, numbers))})"
        if len(numbers) < 2:
            raise self._expected(f"{joins[0]!r} and a number")
        return f"({f' {sign} '.join(map(_grouped, reversed(numbers) if sign == '-' else numbers))})"

    def _percentage_off(self) -> str | None:
        start = self.at
        number = self._number_words() or (self.tokens[self.at] if self.at < len(self.tokens) else "")
        self.at += self.at == start
        if number[:1].isdigit() and self._take("percent", "%") and self._take("off"):
            return f"({self._unary()} * (1 - {number}/100))"
        self.at = start
        return None

    def _remainder(self) -> str | None:
        words = self._peek(*DIVISIONS)
        if words is None:
            return None
        self._skip(words)
        number = self._sum(3)
        self._take("is")
        self._require("divided by")
        self.has_operation = True
        return f"({number} % {self._sum(3)})"

    def _last_result(self) -> str:
        assert self.last is not None
        n, d = self.last.numerator, self.last.denominator
        return f"({n}/{d})" if d != 1 else f"({n})" if n < 0 else str(n)

    def _peek(self, *phrases: str) -> str | None:
        """The longest of these that comes next."""
        rest = self.tokens[self.at : self.at + 6]
        fitting = [phrase for phrase in phrases if rest[: len(phrase.split())] == phrase.split()]
        return max(fitting, key=lambda phrase: len(phrase.split()), default=None)

    def _skip(self, phrase: str) -> None:
        self.at += len(phrase.split())

    def _take(self, *phrases: str) -> bool:
        found = self._peek(*phrases)
        if found is not None:
            self._skip(found)
        return found is not None

    def _require(self, phrase: str) -> None:
        if not self._take(phrase):
            raise self._expected(repr(phrase))

    def _ends_with(self, words: list[str]) -> bool:
        """Whether the tokens end with these, which are then gone."""
        ends = len(self.tokens) - self.at >= len(words) and self.tokens[-len(words) :] == words
        if ends:
            del self.tokens[-len(words) :]
        return ends

    def _expected(self, what: str) -> NotArithmetic:
        got = repr(self.tokens[self.at]) if self.at < len(self.tokens) else "the end"
        return NotArithmetic(f"expected {what}, got {got}")


def _grouped(expression: str) -> str:
    """In parentheses, if it is more than one number, function or group."""
    return f"({expression})" if " " in expression or "/" in expression else expression
