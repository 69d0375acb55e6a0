"""Is the expected load of noisy top-k what happens on average? A Monte-Carlo check of its formula."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..kernels import top_k
from ..moe.losses import LoadProbability
from ..typing import Array, Float
from .text_table import text_table


@dataclass(frozen=True)
class LoadCheck:
    """Load of each expert, by formula and by counting, over the same draws of the noise.

    Attributes:
        expected: mean over the draws of Σ_t q_te, the smooth load of :class:`LoadProbability`.
        expected_error: its standard error.
        simulated: mean over the draws of how many tokens have expert e among their k best.
        simulated_error: its standard error.
        deviation: their difference in units of its own standard error; beyond 4 or so the formula is wrong.
        draws: how often noise was drawn.
        assignments: k·T, what the loads must sum to.
    """

    expected: tuple[float, ...]
    expected_error: tuple[float, ...]
    simulated: tuple[float, ...]
    simulated_error: tuple[float, ...]
    deviation: tuple[float, ...]
    draws: int
    assignments: int

    @property
    def worst(self) -> float:
        """The largest deviation of an expert."""
        return max(map(abs, self.deviation))

    def as_json(self) -> dict[str, Any]:
        """Numbers only."""
        return {"worst": self.worst, **asdict(self)}

    def __str__(self) -> str:
        columns = (self.expected, self.expected_error, self.simulated, self.simulated_error, self.deviation)
        rows = [
            [e, f"{a:.3f} ± {b:.3f}", f"{c:.3f} ± {d:.3f}", f"{z:+.1f}"]
            for e, (a, b, c, d, z) in enumerate(zip(*columns, strict=True))
        ]
        rows.append([f"all, k T = {self.assignments}", f"{sum(self.expected):.3f}", f"{sum(self.simulated):.3f}", ""])
        return text_table(["expert", "expected", "simulated", "deviation"], rows)


def load_check(
    logits: Float[Array, "T E"],
    sigma: Float[Array, "..."],
    k: int,
    *,
    rng: np.random.Generator,
    draws: int = 2000,
) -> LoadCheck:
    """Draw h′ = h + σ N(0, 1) often and compare Σ_t q_te with counts (Shazeer et al. 2017, equations 8 to 10).

    P_te redraws the noise of expert e and keeps that of the others. Averaged over the others' noise it is the
    probability that e is chosen, so both columns estimate the same number.

    Args:
        logits: h, without noise.
        sigma: the standard deviation of the noise, [T, E].
        k: experts per token.
        rng: draws the noise.
        draws: how many times.

    Raises:
        ValueError: shapes differ, ``k`` is not in 1..E, or fewer than two draws.
    """
    if sigma.shape != logits.shape:
        raise ValueError(f"sigma must have the shape {logits.shape} of logits, got {sigma.shape}")
    num_tokens, num_experts = logits.shape
    if not 1 <= k <= num_experts:
        raise ValueError(f"k must be between 1 and num_experts={num_experts}, got {k}")
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    rows = (draws * num_tokens, num_experts)
    h = np.broadcast_to(logits, (draws, *logits.shape)).reshape(rows)
    s = np.broadcast_to(sigma, (draws, *sigma.shape)).reshape(rows)
    noisy = h + s * rng.standard_normal(rows)
    probability = LoadProbability.apply(h, s, noisy, k=k).data
    chosen = np.zeros(rows)
    np.put_along_axis(chosen, top_k(noisy, k), 1, axis=1)
    expected, simulated = (v.reshape(draws, num_tokens, num_experts).sum(axis=1) for v in (probability, chosen))
    error = _standard_error(expected - simulated)
    difference = (expected - simulated).mean(axis=0)
    deviation = np.divide(difference, error, out=np.zeros_like(error), where=error > 1e-12)
    return LoadCheck(
        tuple(expected.mean(axis=0).tolist()),
        tuple(_standard_error(expected).tolist()),
        tuple(simulated.mean(axis=0).tolist()),
        tuple(_standard_error(simulated).tolist()),
        tuple(deviation.tolist()),
        draws,
        k * num_tokens,
    )


def _standard_error(v: Float[Array, "draws E"]) -> Float[Array, " E"]:
    return v.std(axis=0, ddof=1) / len(v) ** 0.5
