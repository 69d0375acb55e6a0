import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.orchestration.calculator import CalculatorError, calculate

numbers = st.integers(-(10**6), 10**6)


@given(numbers, numbers, numbers)
def test_the_four_operations(a, b, c):
    assert calculate(f"({a}) + ({b}) * ({c})").number == a + b * c
    assert calculate(f"({a}) - ({b}) - ({c})").number == a - b - c
    if b:
        assert calculate(f"({a}) / ({b})").number == Fraction(a, b)
        assert calculate(f"({a}) // ({b})").number == a // b
        assert calculate(f"({a}) % ({b})").number == a % b


@given(st.decimals(-1000, 1000, places=6, allow_nan=False))
def test_decimals_are_exact(d):
    assert calculate(f"{d:f}").number == Fraction(d)


@given(st.integers(0, 10**40), st.integers(1, 10**20))
def test_square_roots_of_squares_are_exact(a, b):
    value = calculate(f"sqrt({a**2} / {b**2})")
    assert value.is_exact
    assert value.number == Fraction(a, b)


@given(st.integers(2, 10**12).filter(lambda n: math.isqrt(n) ** 2 != n))
def test_irrational_roots_are_rounded_and_say_so(n):
    value = calculate(f"sqrt({n})")
    assert not value.is_exact
    assert abs(value.number**2 - n) < Fraction(n, 10**25)
    assert "irrational" in str(value)


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("17 * 23", "391"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3 * 3", "1"),
        ("1 / 3", "1/3 (about 0.333333333333)"),
        ("-1 / 8", "-0.125"),
        ("2 ** 3 ** 2", "512"),
        ("-2 ** 2", "-4"),
        ("2 ** -2", "0.25"),
        ("(-8) ** (1/3)", "-2"),
        ("0 ** 0", "1"),
        ("(-1) ** 1000001", "-1"),
        ("factorial(5)", "120"),
        ("gcd(12, 18) + lcm(4, 6)", "18"),
        ("round(2.5) + round(-2.5)", "0"),
        ("round(1 / 3, 3)", "0.333"),
        ("mean(3, 4, 8)", "5"),
        ("sqrt(2)", "about 1.4142135623730950488 (irrational, rounded)"),
        ("0x10 + 1e3", "1016"),
        ("12345678901234567890123 - 1", "12345678901234567890122"),
    ],
)
def test_known_values(expression, shown):
    assert str(calculate(expression)) == shown


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("10**10**10", "1000 digits"),
        ("9**9**9**9**9", "1000 digits"),
        ("factorial(10**9)", "from 0 to 450"),
        ("1e999999999", "exponent of ten"),
        ("(" * 100 + "1" + ")" * 100, "60 deep"),
        ("-" * 200 + "1", "60 operations deep"),
        ("1+" * 600 + "1", "1000 characters"),
        ("1 / 0", "by zero"),
        ("0 ** -1", "by zero"),
        ("1 % 0", "by zero"),
        ("sqrt(2) * sqrt(2)", "irrational"),
        ("sqrt(-1)", "not a real number"),
        ("2 ** 0.5", "no exact value"),
        ("__import__('os')", "function must be one of"),
        ("(1).real", "expected numbers"),
        ("[1, 2]", "expected numbers"),
        ("1 if 1 else 2", "expected numbers"),
        ("'a' * 9", "expected numbers"),
        ("True + 1", "expected numbers"),
        ("x := 1", "not an expression"),
        ("gcd(1)", "takes 2 to 20 numbers, got 1"),
        ("gcd(0.5, 1)", "whole numbers"),
        ("sqrt(1, 2)", "takes 1 numbers, got 2"),
        ("2 +", "not an expression"),
        ("", "not an expression"),
        ("1j", "expected numbers"),
    ],
)
def test_refused(expression, message):
    with pytest.raises(CalculatorError, match=message):
        calculate(expression)
