import numpy as np
import pytest
from by_hand import softmax

from moe_numpy.autodiff import Tensor
from moe_numpy.moe.noise import GumbelNoise, Jitter, Noise, NormalNoise, ShazeerNoise

KINDS = [Noise(), Jitter(0.1), ShazeerNoise(), NormalNoise(), NormalNoise(0.0), GumbelNoise()]


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_base_noise_does_nothing():
    h = Tensor(np.zeros((2, 2)))
    assert Noise().on_input(h, rng()) is h
    noisy, sigma = Noise().on_logits(h, h, None, rng())
    assert noisy is h
    assert sigma is None


def test_jitter_stays_in_its_range_and_leaves_logits_alone():
    x = Tensor(np.full((200, 50), 2, np.float32))
    y = Jitter(0.1).on_input(x, rng()).data
    assert y.dtype == np.float32
    assert 1.8 <= y.min() < 1.81
    assert 2.19 < y.max() <= 2.2
    assert y.mean() == pytest.approx(2, abs=0.01)
    assert Jitter(0.1).on_logits(x, x, None, rng())[0] is x
    np.testing.assert_array_equal(x.data, 2)


@pytest.mark.parametrize(("std", "expected"), [(None, 1 / 50), (0.3, 0.3)])
def test_normal_noise_has_the_standard_deviation_it_says(std, expected):
    h = Tensor(np.ones((2000, 50), np.float32))
    noisy, sigma = NormalNoise(std).on_logits(h, h, None, rng())
    assert noisy.dtype == sigma.dtype == np.float32
    assert noisy.data.mean() == pytest.approx(1, abs=0.01)
    assert noisy.data.std() == pytest.approx(expected, rel=0.02)
    np.testing.assert_array_equal(sigma.data, np.full((2000, 50), expected, np.float32))
    assert NormalNoise(std).on_input(h, rng()) is h


def test_normal_noise_of_size_zero_is_none():
    h = Tensor(np.ones((3, 2)))
    noisy, sigma = NormalNoise(0.0).on_logits(h, h, None, rng())
    assert noisy is h
    assert sigma is None  # a load loss that divides by σ must not see it


def test_shazeer_noise_learns_its_size_from_the_token():
    x = Tensor(rng(1).standard_normal((4, 3)))
    h = Tensor(rng(2).standard_normal((4, 2)), requires_grad=True)
    weight = Tensor(rng(3).standard_normal((2, 3)), requires_grad=True)
    noisy, sigma = ShazeerNoise(epsilon=0.01).on_logits(h, x, weight, rng(4))
    expected = np.log1p(np.exp(x.data @ weight.data.T)) + 0.01
    np.testing.assert_allclose(sigma.data, expected)
    drawn = rng(4).standard_normal((4, 2))
    np.testing.assert_allclose(noisy.data, h.data + expected * drawn)
    noisy.backward(np.ones((4, 2)))
    np.testing.assert_array_equal(h.grad, 1)
    slope = drawn / (1 + np.exp(-x.data @ weight.data.T))
    np.testing.assert_allclose(weight.grad, slope.T @ x.data)


def test_the_best_gumbel_logit_is_a_sample_from_the_softmax():
    h = np.array([[1.0, -0.5, 0.3, 2.0]])
    many = Tensor(np.repeat(h, 40_000, axis=0))
    noisy, sigma = GumbelNoise().on_logits(many, many, None, rng())
    frequency = np.bincount(noisy.data.argmax(axis=1), minlength=4) / 40_000
    np.testing.assert_allclose(frequency, softmax(h)[0], atol=0.01)
    assert sigma is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_the_same_seed_gives_the_same_noise_in_float32(kind):
    x = Tensor(rng(1).standard_normal((5, 3)).astype(np.float32))
    weight = Tensor(np.zeros((3, 3), np.float32))
    runs = [kind.on_logits(kind.on_input(x, g), x, weight, g)[0].data for g in (rng(7), rng(7))]
    assert runs[0].dtype == np.float32
    np.testing.assert_array_equal(*runs)


def test_only_shazeer_noise_has_a_weight():
    assert [kind.learned for kind in KINDS] == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Jitter(1.0), r"epsilon must be in \[0, 1\), got 1\.0"),
        (lambda: Jitter(-0.1), r"epsilon must be in \[0, 1\), got -0\.1"),
        (lambda: ShazeerNoise(-1.0), "ShazeerNoise: epsilon must not be negative, got -1.0"),
        (lambda: NormalNoise(-1.0), "std must not be negative, got -1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
