"""Random numbers from keys: the vectors published with Philox, and what the kernel makes of them."""

import numpy as np
import pytest

from moe_numpy.kernels import uniforms
from moe_numpy.kernels.random_numbers import philox

# Random123's known answers for philox4x32-10: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return np.array([int(word, 16) for word in text.split()])


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    for n in (1, 3):
        found = philox(np.repeat(words(counter)[:, None], n, axis=1), words(key))
        np.testing.assert_array_equal(found, np.repeat(words(expected)[:, None], n, axis=1))


def test_two_numbers_of_four_words():
    a, b, c, d = words(KNOWN[0][2]).tolist()
    expected = [(a << 32 | b) / 2**64, (c << 32 | d) / 2**64]
    np.testing.assert_allclose(uniforms(np.array([0, 0]), 0, 2), expected, rtol=0, atol=2**-53)
    later = philox(np.array([[4], [0], [7], [0]]), np.array([1, 2]))[:, 0].tolist()
    assert uniforms(np.array([1, 2]), 7, 10)[9] == ((later[2] << 32 | later[3]) >> 11) * 2.0**-53


def test_an_entry_depends_on_key_draw_and_place_alone():
    key = np.array([5, 2**32 - 1])
    whole = uniforms(key, 3, 1001)
    np.testing.assert_array_equal(uniforms(key, 3, 10), whole[:10])
    for other in (uniforms(key, 4, 1001), uniforms(key[::-1].copy(), 3, 1001), uniforms(key - 1, 3, 1001)):
        assert not np.intersect1d(whole, other).size
    assert len(np.unique(whole)) == 1001
    assert 0 <= whole.min() < whole.max() < 1
