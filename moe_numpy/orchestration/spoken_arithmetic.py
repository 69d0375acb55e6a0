"""Arithmetic as people write it, read as an expression: ``what is 15 % of eighty?`` becomes ``15/100*80``.

A recursive descent over words, numbers and signs, with the precedence of school: powers, then products, then sums. All of
a query must be read, or nothing is: "write python that multiplies 17 and 23" is no arithmetic.
"""

import re
import unicodedata
from fractions import Fraction

from .calculator import MAX_CHARACTERS
from .number_words import WORDS, number_of


class NotArithmetic(ValueError):
    """A query that is no arithmetic, or not entirely; the message says where reading ended and what was expected."""


_SIGNS = {"×": "*", "⋅": "*", "·": "*", "∗": "*", "÷": "/", "∕": "/", "⁄": "/", "−": "-", "–": "-", "√": " sqrt ",
          "²": " squared ", "³": " cubed ", "½": "(1/2)", "¼": "(1/4)", "¾": "(3/4)", "⅓": "(1/3)", "⅔": "(2/3)"}  # fmt: skip
_TOKEN = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\d.])|\.\d+|\*\*|//|[a-z']+|[-+*/%^()!,=?.;:]")
_OPENINGS = (
    "please", "hey", "hi", "hello", "ok", "so", "well", "and", "now", "then", "quick question", "what is", "what's", "whats",
    "what are", "what do you get for", "what do you get if you", "what does", "what would be", "how much is", "how much are",
    "how much would", "how much does", "calculate", "compute", "evaluate", "work out", "solve", "find", "simplify", "tell me",
    "give me", "show me", "can you", "could you", "would you", "will you", "i need", "i want", "do you know", "what about",
    "how about", "the result of", "result of", "the value of", "value of", "the answer to", "answer to", "let me know", "the", "do",
    "figure out", "what will", "what", "is", "maths", "math", "i'd like to know", "quick maths", "quick math", "my question is",
)  # fmt: skip
_CLOSINGS = ("please", "thanks", "thank you", "equal to", "equals what", "equals", "equal", "is what", "is", "make", "makes",
             "come to", "be", "give", "for me", "exactly", "in total", "altogether", "pls", "then", "now", "=", "?", ".", ":", ",")  # fmt: skip
_BINARY = {
    "plus": "+", "added to": "+", "+": "+", "minus": "-", "-": "-", "take away": "-", "times": "*", "multiplied by": "*",
    "multiplied with": "*", "x": "*", "*": "*", "divided by": "/", "over": "/", "/": "/", "//": "//", "mod": "%", "modulo": "%",
    "%": "%", "to the power of": "**", "to the power": "**", "raised to the power of": "**", "raised to the power": "**",
    "raised to": "**", "**": "**", "^": "**",
}  # fmt: skip
_LEVELS = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "**": 3}
_FUNCTIONS = {"square root": "sqrt", "sqrt": "sqrt", "root": "sqrt", "cube root": "cbrt", "cbrt": "cbrt", "absolute value": "abs",
              "abs": "abs", "factorial": "factorial", "gcd": "gcd", "greatest common divisor": "gcd", "highest common factor": "gcd",
              "lcm": "lcm", "least common multiple": "lcm", "lowest common multiple": "lcm", "average": "mean", "mean": "mean",
              "max": "max", "maximum": "max", "min": "min", "minimum": "min", "round": "round"}  # fmt: skip
_LISTS = {"sum": "+", "total": "+", "product": "*", "difference": "-", "quotient": "/"}
_SHARES = {"half": 2, "third": 3, "quarter": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
           "hundredth": 100}  # fmt: skip
_SHARES |= {f"{name}s": parts for name, parts in _SHARES.items() if name != "half"} | {"halves": 2}
_FACTORS = {"double": 2, "twice": 2, "triple": 3, "thrice": 3, "quadruple": 4}
_VERBS = {"add": "+", "subtract": "-", "deduct": "-", "take": "-", "multiply": "*", "divide": "/"}
_LAST = ("that", "it", "this", "the result", "the last result", "the answer", "result")
_DIVISIONS = ("the remainder of", "remainder of", "the remainder when", "remainder when", "what remains when")


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
    reader = _Reader(_tokens(query), last)
    try:
        expression = reader.whole()
    except RecursionError as error:
        raise NotArithmetic("parentheses or signs are nested too deeply") from error
    if not reader.has_operation:
        raise NotArithmetic("expected an operation, got a number alone")
    return expression


def _tokens(query: str) -> list[str]:
    text = "".join(_SIGNS.get(c, c) for c in query)
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)", lambda m: m[0].replace(",", ""), text)  # 1,234
    text = re.sub(r"(?<=\d)\s*x\s*(?=[\d(-])", " x ", text)
    text = re.sub(r"\bper cent\b|\bpct\b", "percent", text)
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text)  # twenty-three
    found, at = [], 0
    for match in _TOKEN.finditer(text):
        if text[at : match.start()].strip():
            break
        found.append(match[0])
        at = match.end()
    if text[at:].strip():
        raise NotArithmetic(f"expected numbers and operations, got {text[at:].strip()[:20]!r}")
    return found


class _Reader:
    """Reads tokens from left to right; each method returns the expression of what it has read."""

    def __init__(self, tokens: list[str], last: Fraction | None):
        self.tokens, self.at, self.last, self.has_operation = tokens, 0, last, False

    def whole(self) -> str:
        while self._take(*_OPENINGS) or self._take(",", ":"):
            pass
        while any(self._ends_with(words.split()) for words in _CLOSINGS):
            pass
        if not self.tokens[self.at :]:
            raise NotArithmetic("expected numbers and operations, got none")
        begins = self.tokens[self.at]
        if self.last is not None and (self._peek(*_BINARY) and begins not in "+-%("):
            expression = self._sum(1, self._last_result())  # "and times 3?"
        else:
            expression = self._sum()
        while self._peek(*(f", {sign}" for sign in _BINARY)):  # a comma ends what comes before it
            self._take(",")
            expression = self._sum(1, f"({expression})")
        if self.at < len(self.tokens):
            raise self._expected("an operation or the end")
        return expression

    def _sum(self, level: int = 1, left: str | None = None) -> str:
        """Operations of this level and above: precedence climbing."""
        left = self._unary() if left is None else left
        while (words := self._operation()) is not None:
            sign = _BINARY.get(words, "*")
            if _LEVELS[sign] < level:
                break
            self._skip(words)
            self.has_operation = True
            if sign == "**":
                left = f"{left}**{self._unary()}"  # binds to the right: 2 ** 3 ** 2
                continue
            start = self.at
            right = self._sum(_LEVELS[sign] + 1)
            if sign in "+-" and self.tokens[self.at - 1] in ("%", "percent") and self.at - start == 2:
                raise NotArithmetic(
                    f"'{sign} {self.tokens[start]} percent' has two meanings: write 'increase 80 by 15 percent' or '80 + 0.15'"
                )
            left = f"{left} {sign} {right}"
        return left

    def _operation(self) -> str | None:
        """What comes next, if it is an operation; also the "of" in ``3/4 of 20``."""
        of_fraction = self.at > 2 and self.tokens[self.at - 2] in ("/", "over")
        return self._peek(*_BINARY) or (self._peek("of") if of_fraction else None)

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
                number = f"({number} + 1/{_SHARES[part.split()[-1]]})"
            elif (share := self._peek(*_SHARES)) is not None:
                self._skip(share)
                number = f"({number}/{_SHARES[share]}{f' * {self._unary()}' if self._of() else ''})"
            elif self._take("increased by", "decreased by", "reduced by"):
                number = self._changed(number, "+" if self.tokens[self.at - 2] == "increased" else "-")
            elif (sign := self._peek("**", "^", "to the power of", "to the power", "raised to the power of", "raised to")):
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
        return not after or after[0] in ("of", "off", "+", "-", "*", "/", ")", ",", "plus", "minus", "times", "divided", "and", "to")

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
        if self.last is not None and self._take(*_LAST):
            return self._last_result()
        raise self._expected("a number")

    def _number_words(self) -> str | None:
        begin = end = self.at
        while end < len(self.tokens):
            word = self.tokens[end]
            following = self.tokens[end + 1] if end + 1 < len(self.tokens) else ""
            joins = word == "and" and end > begin and self.tokens[end - 1] in ("hundred", "thousand", "million", "billion") and following in WORDS
            article = word in ("a", "an") and end == begin and following in ("hundred", "thousand", "million", "billion", "dozen")
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
        name = self._peek(*_FUNCTIONS)
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
        elif _FUNCTIONS[name] in ("gcd", "lcm", "mean", "max", "min"):
            arguments = self._numbers()
        else:
            arguments = [self._sum(3)]
        return f"{_FUNCTIONS[name]}({', '.join(arguments)})"

    def _list(self) -> str | None:
        name = self._peek(*_LISTS)
        if name is None:
            return None
        self._skip(name)
        if not self._take("of", "between"):
            raise self._expected("'of'")
        self.has_operation = True
        sign, numbers = _LISTS[name], self._numbers()
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
        while not self._peek(*(f", {sign}" for sign in _BINARY)) and self._take(", and", ",", "and"):
            numbers.append(self._sum(2))
        return numbers

    def _part(self) -> str | None:
        """Half of 8, a third of 9, twice 4, halve that."""
        if (factor := self._peek(*_FACTORS)) is not None:
            self._skip(factor)
            self.has_operation = True
            return f"({_FACTORS[factor]} * {self._unary()})"
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
        share = self._peek(*_SHARES)
        if share is None:
            self.at = start
            return None
        self._skip(share)
        self.has_operation = True
        return f"(1/{_SHARES[share]}{f' * {self._unary()}' if self._of() else ''})"

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
        verb = self._peek(*_VERBS)
        if verb is None:
            return None
        self._skip(verb)
        self.has_operation = True
        if verb == "take" and (self._peek(*_FUNCTIONS) or self._peek(*(f"the {name}" for name in _FUNCTIONS))):
            return self._primary()
        self._take("up", "together", "away")
        sign = _VERBS[verb]
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
        words = self._peek(*_DIVISIONS)
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
