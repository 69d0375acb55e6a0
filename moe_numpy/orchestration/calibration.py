"""Probabilities that mean what they say: temperature scaling and the expected calibration error."""

import numpy as np
from scipy.optimize import minimize_scalar

from ..typing import Array, Float, Int

_BINS = 15


def log_softmax(logits: Float[Array, "n K"]) -> Float[Array, "n K"]:
    """x - ln Σ_k e^{x_k}, for rows."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def fit_temperature(logits: Float[Array, "n K"], label: Int[Array, " n"]) -> float:
    """The T that minimises the mean of -ln softmax(logits / T)[label], between 1/20 and 20.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.

    Raises:
        ValueError: there is no example.
    """
    if len(label) == 0:
        raise ValueError("a temperature needs at least one held-out example")
    rows = np.arange(len(label))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature))[rows, label].mean())

    found = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def expected_calibration_error(confidence: Float[Array, " n"], correct: Int[Array, " n"], bins: int = _BINS) -> float:
    """Σ_b n_b/n |mean confidence - share that is correct|, over B bins of equal width of the confidence.

    Bin b holds the n_b confidences in (b/B, (b+1)/B], the first bin 0 as well. An empty bin adds nothing. A router that
    is right in 70 % of the queries for which it says p = 0.7, and likewise for every other p, has an error of 0.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.

    Args:
        confidence: the probability of the most probable outcome, from 0 to 1.
        correct: 1 where it was right, 0 where it was not.
        bins: B.

    Raises:
        ValueError: lengths differ, or there is nothing to count.
    """
    if len(confidence) != len(correct) or len(correct) == 0:
        raise ValueError(
            f"confidence and correct must have the same length above 0, got {len(confidence)}, {len(correct)}"
        )
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(bin_of, confidence - correct, bins)  # n_b (confidence - accuracy)
    return float(np.abs(gap).sum() / len(correct))
