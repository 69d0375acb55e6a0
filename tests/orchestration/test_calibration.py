import numpy as np
import pytest

from moe_numpy.orchestration.calibration import expected_calibration_error, fit_temperature, log_softmax
from moe_numpy.orchestration.mixing import mixed, posterior


def test_the_temperature_that_made_the_labels_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 3
    label = np.array([rng.choice(4, p=p) for p in np.exp(log_softmax(logits))])
    assert fit_temperature(logits * 2.5, label) == pytest.approx(2.5, rel=0.05)
    with pytest.raises(ValueError, match="at least one"):
        fit_temperature(np.zeros((0, 4)), np.zeros(0, np.int64))


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    assert expected_calibration_error(confidence, np.array([1, 1, 1, 0])) == pytest.approx((0.05 + 0.05) / 2)
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([1, 0])) == 0
    assert expected_calibration_error(np.array([0.9] * 10), np.array([1] * 9 + [0])) == pytest.approx(0)
    with pytest.raises(ValueError, match="same length above 0"):
        expected_calibration_error(np.zeros(0), np.zeros(0, np.int64))


def test_posterior_and_mixture_by_hand():
    p = np.array([[[0.5, 0.5]], [[0.25, 0.1]]])  # two specialists, one text of two bytes
    losses = -np.log(p)
    np.testing.assert_allclose(posterior(losses, 1), [[2 / 3, 1 / 3]])
    np.testing.assert_allclose(posterior(losses, 2), [[10 / 11, 1 / 11]])
    np.testing.assert_allclose(np.exp(-mixed(losses, np.array([[0.75, 0.25]]))), [[0.4375, 0.4]])
    with pytest.raises(ValueError, match="prefix must be between 1 and 2, got 3"):
        posterior(losses, 3)
