import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy.orchestration.number_words import in_words, number_of


@given(st.integers(0, 10**15 - 1))
def test_words_and_back(number):
    assert number_of(in_words(number).replace("-", " ").split()) == number


def test_in_words():
    assert in_words(1234) == "one thousand two hundred and thirty-four"
    assert in_words(-5) == "minus five"
    assert in_words(100_001) == "one hundred thousand and one"


@pytest.mark.parametrize(
    ("words", "number"), [("a hundred", 100), ("two dozen", 24), ("twenty five", 25), ("one million two", 1_000_002)]
)
def test_number_of(words, number):
    assert number_of(words.split()) == number


@pytest.mark.parametrize(
    "words", ["two three", "twenty thirty", "two zero", "two thousand three thousand", "five twenty"]
)
def test_what_is_not_one_number(words):
    with pytest.raises(ValueError, match="is not one number"):
        number_of(words.split())


def test_the_largest():
    with pytest.raises(ValueError, match="below a quadrillion, got 1000000000000000"):
        in_words(10**15)
