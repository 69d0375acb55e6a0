"""Which specialist a text is for, by its first bytes: the posterior over kinds.

    p(kind | prefix) ∝ p(kind) Π_t p_kind(byte_t | bytes before it)

Source: Gururangan et al. 2021, DEMix Layers (arXiv 2108.05036), section 5.1, with a uniform prior; used for choosing
among branch-train-merge models by Li et al. 2022 (arXiv 2208.03306), section 2.
"""

import numpy as np

from ..typing import Array, Float
from .calibration import log_softmax


def posterior(losses: Float[Array, "K n S"], prefix: int) -> Float[Array, "n K"]:
    """p(kind | first bytes) of n texts, from the losses of K specialists on each byte.

    Raises:
        ValueError: ``prefix`` is not between 1 and S.
    """
    if not 1 <= prefix <= losses.shape[2]:
        raise ValueError(f"prefix must be between 1 and {losses.shape[2]}, got {prefix}")
    return np.exp(log_softmax(-losses[:, :, :prefix].sum(axis=2).T))


def mixed(losses: Float[Array, "K n S"], weight: Float[Array, "n K"]) -> Float[Array, "n S"]:
    """-ln Σ_k w_k p_k(byte): the losses of the specialists' mixture, with fixed weights for each text."""
    log_w = np.log(np.maximum(weight.T, 1e-300))[:, :, None]
    terms = log_w - losses
    top = terms.max(axis=0)
    return -(top + np.log(np.exp(terms - top).sum(axis=0)))
