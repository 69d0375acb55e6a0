"""Rows of a router for new experts: tokens of a new domain choose them, hardly any other token does.

In FlexOlmo (Shi et al. 2025, arXiv 2507.07024) a row begins as the mean embedding of its domain and is trained with the
expert. Here it is fitted to what it has to beat, so that it also stays below it on old text.
"""

import numpy as np

from ..typing import Array, Float

_RIDGE = 1.0  # beside a sum over some thousands of tokens
_NOISE = 0.1  # beside the length of a row: experts with equal rows would learn the same


def new_rows(
    count: int,
    old: Float[Array, "T d"],
    new: Float[Array, "N d"],
    old_bar: Float[Array, " T"],
    new_bar: Float[Array, " N"],
    *,
    margin: float = 2.0,
    unused: float = 0.01,
    rng: np.random.Generator,
) -> Float[Array, "count d"]:
    """Rows r = w + ε - a u, in float64, that beat the bar θ on text of the new domain and seldom on old text::

        w = argmin Σ_new (w · x - θ - m)² + Σ_old (w · x - θ + m)² + |w|²
        u = argmin Σ_old (u · x - 1)² + Σ_new (u · x - 1)² + |u|²
        a = the smallest number from 0 at which r · x > θ for at most a share ``unused`` of the old tokens

    ε is normal noise of a tenth of the length of w, so that no two rows are equal.

    Vectors after a norm lie around a mean far from zero, so u · x is nearly 1 everywhere: a u is the bias that the
    router does not have. Where it is below 0 for some tokens, no a may be large enough; then it is the best one.

    Args:
        count: how many rows.
        old: what the router gets of T tokens of old text.
        new: the same of N tokens of the new domain.
        old_bar: θ of each old token, the k-th largest of its logits: what a new expert has to beat to be chosen.
        new_bar: θ of each new one.
        margin: m.
        unused: the share of old tokens that may choose a new expert.
        rng: draws the noise.

    Raises:
        ValueError: there are no old or no new tokens, or ``unused`` is not between 0 and 1.
    """
    if not len(old) or not len(new):
        raise ValueError(f"new rows need tokens of old and of new text, got {len(old)} and {len(new)}")
    if not 0 <= unused <= 1:
        raise ValueError(f"unused must be between 0 and 1, got {unused}")
    x = np.concatenate([old, new]).astype(np.float64)
    target = np.concatenate([old_bar - margin, new_bar + margin])
    gram = x.T @ x + _RIDGE * np.eye(x.shape[1])
    w, u = np.linalg.solve(gram, np.stack([x.T @ target, x.sum(axis=0)], axis=1)).T
    rows = w + _NOISE * np.linalg.norm(w) / len(w) ** 0.5 * rng.standard_normal((count, len(w)))
    for row in rows:
        row -= _offset(old @ row - old_bar, old @ u, unused) * u
    return rows


def _offset(above: Float[Array, " T"], one: Float[Array, " T"], unused: float) -> float:
    """The smallest a from 0 at which above - a · one > 0 for at most a share ``unused``, or for the fewest tokens."""
    leaves, enters = (np.sort(above[which] / one[which]) for which in (one > 0, one < 0))
    a = np.concatenate([[0.0], leaves[leaves > 0]])  # the number of tokens only changes there
    always = np.count_nonzero(above[one == 0] > 0)
    over = len(leaves) - np.searchsorted(leaves, a, "right") + np.searchsorted(enters, a, "left") + always
    enough = np.flatnonzero(over <= unused * len(above))
    return float(a[enough[0] if len(enough) else over.argmin()])
