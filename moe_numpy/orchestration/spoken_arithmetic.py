"""Arithmetic as people write it, read as an expression: ``what is 15 % of eighty?`` becomes ``15/100*80``.

A recursive descent over words, numbers and signs, with the precedence of school: powers, then products, then sums. All
of a query must be read, or nothing is: "write python that multiplies 17 and 23" is no arithmetic.
"""

import re
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
from .token_reader import TokenReader


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


class _Reader(TokenReader):
    """Reads tokens from left to right; each method returns the expression of what it has read."""

    def __init__(self, tokens: list[str], last: Fraction | None):
        super().__init__(tokens)
        self.last, self.has_operation = last, False

    def whole(self) -> str:
        while self.take(*OPENINGS) or self.take(",", ":"):
            pass
        while any(self.ends_with(words.split()) for words in CLOSINGS):
            pass
        if not self.tokens[self.at :]:
            raise NotArithmetic("expected numbers and operations, got none")
        begins = self.tokens[self.at]
        if self.last is not None and (self.peek(*BINARY) and begins not in "+-%("):
            expression = self._sum(1, self._last_result())  # "and times 3?"
        else:
            expression = self._sum()
        while self.peek(*(f", {sign}" for sign in BINARY)):  # a comma ends what comes before it
            self.take(",")
            expression = self._sum(1, f"({expression})")
        if self.at < len(self.tokens):
            raise self.expected("an operation or the end")
        return expression

    def _sum(self, level: int = 1, left: str | None = None) -> str:
        """Operations of this level and above: precedence climbing."""
        left = self._unary() if left is None else left
        while (words := self._operation()) is not None:
            sign = BINARY.get(words, "*")
            if LEVELS[sign] < level:
                break
            self.skip(words)
            self.has_operation = True
            if sign == "**":
                left = f"{left}**{self._unary()}"  # binds to the right: 2 ** 3 ** 2
                continue
            right = self._sum(LEVELS[sign] + 1)
            if sign in "+-":
                _refuse_percent_alone(right)
            left = f"{left} {sign} {right}"
        return left

    def _operation(self) -> str | None:
        """What comes next, if it is an operation; also the "of" in ``3/4 of 20``."""
        of_fraction = self.at > 2 and self.tokens[self.at - 2] in ("/", "over")
        return self.peek(*BINARY) or (self.peek("of") if of_fraction else None)

    def _unary(self) -> str:
        if self.take("-", "minus", "negative"):
            operand = self._unary()
            return f"-{operand}"
        self.take("+", "the", "of")
        number = self._power(self._primary())
        return number

    def _power(self, number: str) -> str:
        """What stands behind a number: squared, factorial, percent of, thirds of, a power."""
        while True:
            if self.take("squared", "cubed"):
                power = 2 if self.tokens[self.at - 1] == "squared" else 3
                number = f"({number})**{power}" if "**" in number else f"{number}**{power}"
            elif self.take("!", "factorial"):
                number = f"factorial({number})"
            elif self.peek("percent", "%") and self._is_percent():
                self.take("percent", "%")
                if self.take("off"):
                    number = f"({self._unary()} * (1 - {number}/100))"
                else:
                    number = f"({number}/100 * {self._unary()})" if self.take("of") else f"({number}/100)"
            elif (ordinal := self.peek(*(f"to the {name}" for name in SHARES))) is not None:
                self.skip(ordinal)
                self.take("power")
                number = f"{number}**{SHARES[ordinal.split()[-1]]}"
            elif (part := self.peek("and a half", "and a quarter", "and a third")) is not None:
                self.skip(part)
                number = f"({number} + 1/{SHARES[part.split()[-1]]})"
            elif (share := self.peek(*SHARES)) is not None:
                self.skip(share)
                number = f"({number}/{SHARES[share]}{f' * {self._unary()}' if self._of() else ''})"
            elif self.take("increased by", "decreased by", "reduced by"):
                number = self._changed(number, "+" if self.tokens[self.at - 2] == "increased" else "-")
            elif sign := self.peek("**", "^", "to the power of", "to the power", "raised to the power of", "raised to"):
                self.skip(sign)
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
        if self.take("percent", "%"):
            return f"({number} * (1 {sign} {by}/100))"
        return f"({number} {sign} {by})"

    def _primary(self) -> str:
        while self.take("the", "a result of"):
            pass
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if token == "(":
            self.at += 1
            inside = self._sum()
            self.require(")")
            return f"({inside})"
        for read in (
            self.digits,
            self.number_words,
            self._function,
            self._list,
            self._part,
            self._verb,
            self._remainder,
        ):
            found = read()
            if found is not None:
                return found
        if self.last is not None and self.take(*LAST):
            return self._last_result()
        raise self.expected("a number")

    def _function(self) -> str | None:
        name = self.peek(*FUNCTIONS)
        if name is None:
            return None
        self.skip(name)
        self.has_operation = True
        self.take("of")
        if self.take("("):
            arguments = [self._sum()]
            while self.take(","):
                arguments.append(self._sum())
            self.require(")")
        elif FUNCTIONS[name] in ("gcd", "lcm", "mean", "max", "min"):
            arguments = self._numbers()
        else:
            arguments = [self._sum(3)]
        return f"{FUNCTIONS[name]}({', '.join(arguments)})"

    def _list(self) -> str | None:
        name = self.peek(*LISTS)
        if name is None:
            return None
        self.skip(name)
        if not self.take("of", "between"):
            raise self.expected("'of'")
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
        while not self.peek(*(f", {sign}" for sign in BINARY)) and self.take(", and", ",", "and"):
            numbers.append(self._sum(2))
        return numbers

    def _part(self) -> str | None:
        """Half of 8, a third of 9, twice 4, halve that."""
        if (factor := self.peek(*FACTORS)) is not None:
            self.skip(factor)
            self.has_operation = True
            return f"({FACTORS[factor]} * {self._unary()})"
        if self.take("square", "cube"):
            power = 2 if self.tokens[self.at - 1] == "square" else 3
            self.take("of")
            self.has_operation = True
            return f"({self._unary()})**{power}"
        if self.take("halve"):
            self.has_operation = True
            return f"({self._unary()}/2)"
        start = self.at
        self.take("a", "an")
        share = self.peek(*SHARES)
        if share is None:
            self.at = start
            return None
        self.skip(share)
        self.has_operation = True
        return f"(1/{SHARES[share]}{f' * {self._unary()}' if self._of() else ''})"

    def _of(self) -> bool:
        return self.take("of") or self.peek("a dozen", "a hundred", "a thousand", "a million") is not None

    def _verb(self) -> str | None:
        """Add 3 and 4, subtract 3 from 10, multiply 3 by 4, increase 80 by 15 percent."""
        if self.take("increase", "decrease", "reduce"):
            sign = "+" if self.tokens[self.at - 1] == "increase" else "-"
            number = self._sum(2)
            self.require("by")
            self.has_operation = True
            return self._changed(number, sign)
        verb = self.peek(*VERBS)
        if verb is None:
            return None
        self.skip(verb)
        self.has_operation = True
        if verb == "take" and (self.peek(*FUNCTIONS) or self.peek(*(f"the {name}" for name in FUNCTIONS))):
            return self._primary()
        self.take("up", "together", "away")
        sign = VERBS[verb]
        joins = ("from",) if sign == "-" else ("by",) if sign == "/" else ("and", "to", "with", "by", ",")
        if sign in "*/-" and self.last is not None and self.take("by"):  # "divide by 3"
            return f"({self._last_result()} {sign} {_grouped(self._sum(2))})"
        first = self._percentage_off() if verb == "take" else None
        if first is not None:
            return first
        numbers = [self._sum(2)]
        while self.take(*joins):
            self.take("and")
            numbers.append(self._sum(2))
        if sign in "+-":
            _refuse_percent_alone(numbers[0])
        if len(numbers) < 2 and self.last is not None:
            numbers = [self._last_result(), *numbers]  # "add 5"
            return f"({f' {sign} '.join(map(_grouped, numbers))})"
        if len(numbers) < 2:
            raise self.expected(f"{joins[0]!r} and a number")
        return f"({f' {sign} '.join(map(_grouped, reversed(numbers) if sign == '-' else numbers))})"

    def _percentage_off(self) -> str | None:
        start = self.at
        number = self.number_words() or (self.tokens[self.at] if self.at < len(self.tokens) else "")
        self.at += self.at == start
        if number[:1].isdigit() and self.take("percent", "%") and self.take("off"):
            return f"({self._unary()} * (1 - {number}/100))"
        self.at = start
        return None

    def _remainder(self) -> str | None:
        words = self.peek(*DIVISIONS)
        if words is None:
            return None
        self.skip(words)
        number = self._sum(3)
        self.take("is")
        self.require("divided by")
        self.has_operation = True
        return f"({number} % {self._sum(3)})"

    def _last_result(self) -> str:
        assert self.last is not None
        n, d = self.last.numerator, self.last.denominator
        return f"({n}/{d})" if d != 1 else f"({n})" if n < 0 else str(n)


def _refuse_percent_alone(expression: str) -> None:
    """Of another number, or 0.15? NotArithmetic."""
    if re.fullmatch(r"\([\d.]+/100\)", expression):
        raise NotArithmetic(
            "a percentage that is added has two meanings: write 'increase 80 by 15 percent' or '80 + 0.15'"
        )


def _grouped(expression: str) -> str:
    """In parentheses, if it is more than one number, function or group."""
    return f"({expression})" if " " in expression or "/" in expression else expression
