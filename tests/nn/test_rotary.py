"""The frequencies of each scaling, pair by pair, as their papers and transformers define them."""

import math

import numpy as np
import pytest

from moe_numpy.nn import Rotary
from moe_numpy.nn.rotary import Linear, Llama3, LongRoPE, YaRN

BASE, WIDTH = 500.0, 24
PLAIN = [BASE ** (-2 * j / WIDTH) for j in range(WIDTH // 2)]


def frequencies(scaling, length=1, **settings):
    return Rotary(BASE, scaling=scaling, **settings).frequencies(WIDTH, length)


def test_plain_and_partial():
    np.testing.assert_allclose(frequencies(None), PLAIN)
    np.testing.assert_allclose(Rotary(BASE, 8).frequencies(WIDTH), [BASE ** (-2 * j / 8) for j in range(4)])


def test_linear():
    np.testing.assert_allclose(frequencies(Linear(4.0)), np.array(PLAIN) / 4)
    assert Linear(4.0).factor_for(10) == 1


def llama3(theta, factor, low, high, original):
    wavelength = 2 * math.pi / theta
    if wavelength > original / low:
        return theta / factor
    if wavelength < original / high:
        return theta
    smooth = (original / wavelength - low) / (high - low)
    return (1 - smooth) * theta / factor + smooth * theta


def test_llama3():
    scaling = Llama3(8.0, 1.0, 4.0, 256)
    expected = [llama3(theta, 8.0, 1.0, 4.0, 256) for theta in PLAIN]
    np.testing.assert_allclose(frequencies(scaling), expected)
    blended = [
        not np.isclose(new, old) and not np.isclose(new, old / 8) for new, old in zip(expected, PLAIN, strict=True)
    ]
    assert 0 < sum(blended) < len(PLAIN)


def test_llama3_without_a_blend():
    """Llama 4 Scout: low = high, so the formula's denominator is 0."""
    expected = [theta / 16 if 2 * math.pi / theta > 64 else theta for theta in PLAIN]
    np.testing.assert_allclose(frequencies(Llama3(16.0, 1.0, 1.0, 64)), expected)


def yarn(j, factor, original, fast, slow, truncate):
    pair = lambda turns: WIDTH * math.log(original / (2 * math.pi * turns)) / (2 * math.log(BASE))  # noqa: E731
    low, high = pair(fast), pair(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, WIDTH - 1)
    ramp = min(max((j - low) / (high - low if high != low else 0.001), 0), 1)
    return PLAIN[j] * (1 - ramp) + PLAIN[j] / factor * ramp


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize(("fast", "slow"), [(32, 1), (5, 2), (9, 9), (1e9, 1)])
def test_yarn(fast, slow, truncate):
    scaling = YaRN(8.0, 256, fast, slow, truncate, 1.3)
    expected = [yarn(j, 8.0, 256, fast, slow, truncate) for j in range(len(PLAIN))]
    np.testing.assert_allclose(frequencies(scaling), expected)
    assert scaling.factor_for(10**6) == 1.3


def test_longrope_has_two_sets():
    short, long = tuple(np.linspace(1, 2, 12)), tuple(np.linspace(3, 9, 12))
    scaling = LongRoPE(64, short, long, 1.1, 1.4)
    np.testing.assert_allclose(frequencies(scaling, 64), np.array(PLAIN) / short)
    np.testing.assert_allclose(frequencies(scaling, 65), np.array(PLAIN) / long)
    assert (scaling.factor_for(64), scaling.factor_for(65)) == (1.1, 1.4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0.0), "linear scaling: factor must be above 0 and finite, got 0.0"),
        (lambda: Llama3(8.0, -1.0, 4.0, 64), "Llama 3 scaling: low must be above 0 and finite, got -1.0"),
        (lambda: Llama3(8.0, 4.0, 1.0, 64), "Llama 3 scaling: high must be at least low=4.0, got 1.0"),
        (lambda: YaRN(math.inf, 64), "YaRN: factor must be above 0 and finite, got inf"),
        (lambda: YaRN(8.0, 64, beta_slow=-1.0), "YaRN: beta_slow must be above 0 and finite, got -1.0"),
        (lambda: YaRN(8.0, 64, 1.0, 2.0), "YaRN: beta_fast must be at least beta_slow=2.0, got 1.0"),
        (lambda: LongRoPE(64, (1.0, 0.0), (1.0, 1.0)), "LongRoPE: s must be above 0 and finite, got 0.0"),
        (lambda: LongRoPE(64, (1.0,), (1.0,), math.nan), "LongRoPE: short_factor must be above 0 and finite, got nan"),
        (lambda: frequencies(LongRoPE(64, (1.0,) * 12, (1.0,))), "one factor for each of 12 pairs, got 1"),
        (lambda: Rotary(1.0), "the base of a rotation must be above 1 and finite, got 1.0"),
        (lambda: Rotary(width=5).require(8), "width must be even and at most 8, because .* pairs, got 5"),
        (lambda: Rotary(width=10).require(8), "width must be even and at most 8, because .* pairs, got 10"),
        (lambda: Rotary().require(7), "d_head must be even, because .* pairs, got 7"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
