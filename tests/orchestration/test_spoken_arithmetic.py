from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.orchestration.calculator import calculate
from moe_numpy.orchestration.number_words import in_words
from moe_numpy.orchestration.spoken_arithmetic import NotArithmetic, expression_of

whole = st.integers(0, 10**9)


def value(query, last=None):
    return str(calculate(expression_of(query, last)))


@given(whole, whole, whole, st.booleans())
def test_in_words_and_in_digits(a, b, c, spoken):
    a_, b_, c_ = (in_words(n) if spoken else f"{n:,}" for n in (a, b, c))
    assert value(f"What is {a_} plus {b_} times {c_}?") == str(a + b * c)


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("what is 17 * 23?", "391"),
        ("seventeen times twenty-three", "391"),
        ("What's 15 % of 80?", "12"),
        ("15% of 80 plus 3", "15"),
        ("20 percent off 50", "40"),
        ("take 20 % off 50", "40"),
        ("increase 80 by 15 percent", "92"),
        ("80 decreased by 15 %", "68"),
        ("17 % 5", "2"),
        ("17 mod 5", "2"),
        ("the remainder of 17 divided by 5", "2"),
        ("2^10", "1024"),
        ("two to the power of eight", "256"),
        ("nine squared plus two cubed", "89"),
        ("the square root of 144", "12"),
        ("√81 + 1", "10"),
        ("2 × (3 + 4)² ÷ 7", "14"),
        ("5!", "120"),
        ("half of 9", "4.5"),
        ("two thirds of 9", "6"),
        ("3/4 of 20", "15"),
        ("two and a half times four", "10"),
        ("half a dozen times two", "12"),
        ("twice 4 plus 1", "9"),
        ("the sum of 3, 4 and 5", "12"),
        ("the sum of twelve and thirty, divided by six", "7"),
        ("difference between 3 and 10", "7"),
        ("average of 3, 4 and 8", "5"),
        ("gcd of 12 and 18", "6"),
        ("subtract 3 from 10", "7"),
        ("divide 6 by 2*3", "1"),
        ("minus four times minus five", "20"),
        ("three point five times two", "7"),
        ("1,234 minus 1", "1233"),
        ("2 million times 3", "6000000"),
        ("how much is 3 plus 4, please?", "7"),
        ("what does 3 plus 4 equal?", "7"),
        ("12x12", "144"),
        ("17 % -5", "-3"),
        ("50% - 5", "-4.5"),
        ("seven to the third power", "343"),
        ("5 dozen plus 1", "61"),
        ("max(3, 400)", "400"),
    ],
)
def test_what_is_read(query, result):
    assert value(query) == result


@pytest.mark.parametrize(
    ("query", "last", "result"),
    [
        ("and times 3?", 391, "1173"),
        ("now square it", -4, "16"),
        ("subtract 3 from it", Fraction(1, 2), "-2.5"),
        ("add 5", 4, "9"),
        ("divided by 4", 2, "0.5"),
        ("take the square root of that", 9, "3"),
        ("and 15 % of that?", 80, "12"),
        ("-3 + 1", 9, "-2"),
    ],
)
def test_follow_ups(query, last, result):
    assert value(query, Fraction(last)) == result


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("write python that multiplies 17 and 23", "expected a number, got 'write'"),
        ("17", "a number alone"),
        ("80 + 15 %", "two meanings"),
        ("2 +", "got the end"),
        ("80 plus twenty five percent", "two meanings"),
        ("add 5 percent to 80", "two meanings"),
        ("max(1,234)", "one number or several"),
        ("average of 100,200 and 300", "one number or several"),
        ("0x10 + 1", "hexadecimal"),
        ("(3 + 4", "expected '\\)'"),
        ("5 5", "got '5'"),
        ("two three plus one", "is not one number"),
        ("and times 3?", "got 'times'"),
        ("a poem about 3 + 4", "got"),
        ("is 3 + 4 = 8", "got '='"),
        ("what percentage of 80 is 20", "got 'percentage'"),
        ("", "got none"),
        ("1 + " * 300 + "1", "1000 characters"),
        ("(" * 400 + "1", "nested too deeply|expected"),
    ],
)
def test_what_is_no_arithmetic(query, message):
    with pytest.raises(NotArithmetic, match=message):
        expression_of(query)
