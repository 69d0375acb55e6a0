"""Exact arithmetic on an expression in Python's notation, read through ``ast`` and never evaluated by Python.

Numbers are fractions, so ``0.1 + 0.2`` is 0.3 and ``1 / 3 * 3`` is 1. What cannot be exact is refused, except that the
outermost square or cube root may be irrational and is then rounded, and says so. Sizes are bounded before they are
computed: ``10**10**10`` is refused at once.
"""

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction

MAX_CHARACTERS = 1000  # of an expression
MAX_DIGITS = 1000  # of a numerator or denominator
_MAX_BITS = math.ceil(MAX_DIGITS * math.log2(10))
_MAX_DEPTH = 60
_ROUNDED_DIGITS = 20


class CalculatorError(ValueError):
    """An expression that has no exact value here; the message says which part, and what was expected."""


@dataclass(frozen=True)
class Value:
    """A result: exact, or rounded to 20 digits."""

    number: Fraction
    is_exact: bool = True

    def __str__(self) -> str:
        if not self.is_exact:
            return f"about {Context(prec=_ROUNDED_DIGITS).divide(*self._decimals())} (irrational, rounded)"
        n, d = self.number.numerator, self.number.denominator
        if d == 1:
            return str(n)
        twos, fives = (d & -d).bit_length() - 1, 0
        while d % 5 ** (fives + 1) == 0:
            fives += 1
        places = max(twos, fives)
        if d == 2**twos * 5**fives and places <= _ROUNDED_DIGITS:
            digits = str(abs(n) * 10**places // d).rjust(places + 1, "0")
            return f"{'-' if n < 0 else ''}{digits[:-places]}.{digits[-places:]}"
        return f"{n}/{d} (about {Context(prec=12).divide(*self._decimals())})"

    def _decimals(self) -> tuple[Decimal, Decimal]:
        return Decimal(self.number.numerator), Decimal(self.number.denominator)


def calculate(expression: str) -> Value:
    """The value of an expression of numbers, + - * / // % **, parentheses and the functions of FUNCTIONS.

    Raises:
        CalculatorError: it is not such an expression, too long, too deep or too large, or has no exact value.
    """
    if len(expression) > MAX_CHARACTERS:
        raise CalculatorError(f"an expression may have {MAX_CHARACTERS} characters, this one has {len(expression)}")
    depth = deepest = 0
    for c in expression:
        depth += (c in "([{") - (c in ")]}")
        deepest = max(deepest, depth)
    if deepest > _MAX_DEPTH:
        raise CalculatorError(f"parentheses may be {_MAX_DEPTH} deep, these are {deepest}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise CalculatorError(f"{_shown(expression)} is not an expression: {said}") from error
    return _outermost(tree.body, expression.strip())


def _outermost(node: ast.expr, source: str) -> Value:
    """Roots that are irrational may stand here alone."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _ROOTS
        and len(node.args) == 1
    ):
        number, degree = _value(node.args[0], source, 1), _ROOTS[node.func.id]
        root = _exact_root(number, degree)
        if root is not None:
            return Value(root)
        if number < 0 and degree == 2:
            raise CalculatorError(f"the square root of {number} is not a real number")
        return Value(_rounded_root(number, degree), is_exact=False)
    return Value(_value(node, source, 0))


def _value(node: ast.expr, source: str, depth: int) -> Fraction:
    if depth > _MAX_DEPTH:
        raise CalculatorError(f"an expression may be {_MAX_DEPTH} operations deep, {_shown(source)} is deeper")
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        text = (ast.get_source_segment(source, node) or "").replace("_", "")
        return _checked(_number(text))  # from the text: 0.1 as a float is not 1/10
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        number = _value(node.operand, source, depth + 1)
        return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        a, b = _value(node.left, source, depth + 1), _value(node.right, source, depth + 1)
        return _checked(_OPERATIONS[type(node.op)](a, b))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        name = node.func.id
        if name not in FUNCTIONS:
            raise CalculatorError(f"the function must be one of {', '.join(FUNCTIONS)}, got {_shown(name)}")
        return _checked(FUNCTIONS[name](*_arguments(name, [_value(arg, source, depth + 1) for arg in node.args])))
    part = ast.get_source_segment(source, node) or source
    raise CalculatorError(f"expected numbers, + - * / // % **, parentheses or functions, got {_shown(part)}")


def _number(text: str) -> Fraction:
    if len(text) > MAX_DIGITS:
        raise CalculatorError(f"a number may have {MAX_DIGITS} digits, this one has {len(text)}")
    is_decimal = text[:2].lower() not in ("0x", "0o", "0b")
    exponent = text.lower().partition("e")[2] if is_decimal else ""
    if exponent and abs(int(exponent)) > MAX_DIGITS:
        raise CalculatorError(f"an exponent of ten may be {MAX_DIGITS} at most, got {_shown(text)}")
    try:
        return Fraction(text) if is_decimal else Fraction(int(text, 0))
    except ValueError as error:
        raise CalculatorError(f"expected a number, got {_shown(text)}") from error


def _checked(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > _MAX_BITS:
        raise CalculatorError(f"a result may have {MAX_DIGITS} digits, this one would have more")
    return number


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise CalculatorError(message)


def _divide(a: Fraction, b: Fraction) -> Fraction:
    _require(b != 0, f"division of {_shown(a)} by zero")
    return a / b


def _floor_divide(a: Fraction, b: Fraction) -> Fraction:
    _require(b != 0, f"division of {_shown(a)} by zero")
    return Fraction(a // b)


def _modulo(a: Fraction, b: Fraction) -> Fraction:
    _require(b != 0, f"division of {_shown(a)} by zero")
    return a % b


def _power(a: Fraction, b: Fraction) -> Fraction:
    if b.denominator != 1:
        root = _exact_root(a, b.denominator) if b.denominator <= _MAX_DEPTH else None
        _require(root is not None, f"{_shown(a)} to the power of {_shown(b)} has no exact value here")
        a, b = root or Fraction(0), Fraction(b.numerator)
    _require(a != 0 or b >= 0, "zero to a negative power is a division by zero")
    bits = max(a.numerator.bit_length(), a.denominator.bit_length())
    unit = abs(a) in (0, 1)
    too_large = not unit and (bits - 1) * abs(b.numerator) > _MAX_BITS  # a lower bound of the result's bits
    _require(not too_large, f"a result may have {MAX_DIGITS} digits, {_shown(a)} to the power of {_shown(b)} has more")
    return a ** (int(b) % 2 + 2 if unit and b else int(b))  # of 0, 1 and -1, huge exponents are small ones


def _exact_root(number: Fraction, degree: int) -> Fraction | None:
    """The rational root of a number; None if there is none."""
    if number < 0:
        root = _exact_root(-number, degree) if degree % 2 else None
        return None if root is None else -root
    parts = [_integer_root(n, degree) for n in (number.numerator, number.denominator)]
    return Fraction(*parts) if Fraction(*parts) ** degree == number else None


def _integer_root(n: int, degree: int) -> int:
    """⌊n^(1/degree)⌋ by bisection."""
    low, high = 0, 1 << (n.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= n else (low, middle - 1)
    return low


def _rounded_root(number: Fraction, degree: int) -> Fraction:
    scale = 10 ** (_ROUNDED_DIGITS + 10 + len(str(number.denominator)))
    root = _integer_root(abs(number.numerator) * scale**degree // number.denominator, degree)
    return Fraction(-root if number < 0 else root, scale)


def _root_function(degree: int) -> Callable[[Fraction], Fraction]:
    def root(number: Fraction) -> Fraction:
        found = _exact_root(number, degree)
        what = "square" if degree == 2 else "cube"
        if found is None:
            raise CalculatorError(f"the {what} root of {_shown(number)} is irrational; only alone can it be rounded")
        return found

    return root


def _factorial(n: Fraction) -> Fraction:
    _require(n.denominator == 1 and 0 <= n <= 450, f"factorial needs a whole number from 0 to 450, got {_shown(n)}")
    return Fraction(math.factorial(int(n)))


def _round(number: Fraction, places: Fraction = Fraction(0)) -> Fraction:
    """To the nearest, halves away from zero, as in school."""
    _require(
        places.denominator == 1 and -100 <= places <= 100, f"round needs whole places up to 100, got {_shown(places)}"
    )
    scaled = abs(number) * Fraction(10) ** int(places)
    rounded = math.floor(scaled + Fraction(1, 2)) / Fraction(10) ** int(places)
    return rounded if number >= 0 else -rounded


def _whole(what: str, function: Callable[..., int]) -> Callable[..., Fraction]:
    def on_fractions(*numbers: Fraction) -> Fraction:
        _require(
            all(n.denominator == 1 for n in numbers),
            f"{what} needs whole numbers, got {', '.join(map(_shown, numbers))}",
        )
        return Fraction(function(*(int(n) for n in numbers)))

    return on_fractions


def _mean(*numbers: Fraction) -> Fraction:
    return Fraction(sum(numbers), len(numbers))


def _arguments(name: str, numbers: list[Fraction]) -> list[Fraction]:
    least, most = _COUNTS.get(name, (1, 1))
    _require(
        least <= len(numbers) <= most,
        f"{name} takes {least if least == most else f'{least} to {most}'} numbers, got {len(numbers)}",
    )
    return numbers


def _shown(part: object) -> str:
    text = str(part)
    return repr(text if len(text) <= 40 else f"{text[:37]}...") if isinstance(part, str) else text[:40]


_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: _divide,
    ast.FloorDiv: _floor_divide,
    ast.Mod: _modulo,
    ast.Pow: _power,
}
_ROOTS = {"sqrt": 2, "cbrt": 3}
FUNCTIONS: dict[str, Callable[..., Fraction]] = {
    "sqrt": _root_function(2),
    "cbrt": _root_function(3),
    "abs": abs,
    "factorial": _factorial,
    "gcd": _whole("gcd", math.gcd),
    "lcm": _whole("lcm", math.lcm),
    "round": _round,
    "min": lambda *numbers: min(numbers),
    "max": lambda *numbers: max(numbers),
    "mean": _mean,
}
_COUNTS = {"gcd": (2, 20), "lcm": (2, 20), "round": (1, 2), "min": (1, 100), "max": (1, 100), "mean": (1, 100)}
