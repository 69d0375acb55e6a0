"""Scaling laws of Mixtures of Experts: the loss over parameters, experts, granularity and tokens.

A law is fitted by least squares. Few of its coefficients are exponents; with those fixed the law is linear in the rest.
So the exponents are searched on a grid that closes in on the best point, and the rest is solved exactly: no starting
point, no local minimum of the rest. Error bars are percentiles over resampled points.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np

from ..typing import Array, Float
from .separable import separable_least_squares

_APART = 2.0  # E_max over E_start, at least: otherwise Ê hardly depends on E
_ATTEMPTS = 100  # at a resample that can be fitted


@dataclass(frozen=True)
class Point:
    """A trained model.

    Attributes:
        parameters: N, as the law counts them.
        loss: L, nats per token of text that it was not trained on.
        tokens: D, that it was trained on.
        experts: E.
        granularity: G, the width of the dense feed-forward network over that of an expert.
    """

    parameters: float
    loss: float
    tokens: float = 1.0
    experts: float = 1.0
    granularity: float = 1.0


@dataclass(frozen=True)
class FineGrained:
    """L(N, D, G) = c + (g / G^γ + a) / N^α + b / D^β, at one number of experts per expert of the dense model.

    Source: Krajewski et al. 2024, Scaling Laws for Fine-Grained Mixture of Experts, equation 9.
    """

    a: float
    alpha: float
    b: float
    beta: float
    g: float
    gamma: float
    c: float

    RANGES: ClassVar = {"alpha": (0.02, 1.5), "beta": (0.02, 1.5), "gamma": (0.05, 3.0)}

    def loss(self, points: Sequence[Point]) -> Float[Array, " n"]:
        """What the law predicts for the points, whatever their losses: n numbers."""
        n, d, granularity, _ = _columns(points)
        return self.c + (self.g / granularity**self.gamma + self.a) / n**self.alpha + self.b / d**self.beta

    @classmethod
    def fit(cls, points: Sequence[Point]) -> "FineGrained":
        """The coefficients with the least Σ (L - L_i)²; a, b, c and g are not negative.

        Raises:
            ValueError: fewer than 3 different N, D or G, or fewer than 8 points.
        """
        n, d, granularity, losses = _columns(points)
        _require_points(points, 8, {"N": n, "D": d, "G": granularity})
        middle_n, middle_d = np.exp(np.log(n).mean()), np.exp(np.log(d).mean())

        def terms(alpha: Float[Array, " m"], beta: Float[Array, " m"], gamma: Float[Array, " m"]) -> Array:
            of_n = (n / middle_n) ** -alpha[:, None]
            of_d = (d / middle_d) ** -beta[:, None]
            return np.stack([np.ones_like(of_n), of_n, of_n * granularity ** -gamma[:, None], of_d], axis=-1)

        (alpha, beta, gamma), (c, a, g, b) = separable_least_squares(
            terms, losses, list(cls.RANGES.values()), nonnegative=True
        )
        scale_n, scale_d = middle_n**alpha, middle_d**beta
        return cls(float(a * scale_n), alpha, float(b * scale_d), beta, float(g * scale_n), gamma, c)


@dataclass(frozen=True)
class Routed:
    """log L(N, E) = a log N + b log Ê + c log N log Ê + d, logarithms to base 10::

        1 / Ê = 1 / (E - 1 + (1 / E_start - 1 / E_max)⁻¹) + 1 / E_max

    Ê is E_start for one expert and never more than E_max. N counts the parameters that a token is multiplied with.

    Source: Clark et al. 2022, Unified Scaling Laws for Routed Language Models, equation 1; the base of the logarithms
    is that of the published example (google-deepmind/scaling_laws_for_routing).
    """

    a: float
    b: float
    c: float
    d: float
    e_start: float
    e_max: float

    RANGES: ClassVar = {"e_start": (1.0, 32.0), "e_max": (2.0, 1e4)}

    def loss(self, points: Sequence[Point]) -> Float[Array, " n"]:
        """What the law predicts for the points, whatever their losses: n numbers."""
        log_n = np.log10([p.parameters for p in points])
        log_e = np.log10(effective_experts(np.array([p.experts for p in points], np.float64), self.e_start, self.e_max))
        return 10 ** (self.a * log_n + self.b * log_e + self.c * log_n * log_e + self.d)

    @classmethod
    def fit(cls, points: Sequence[Point]) -> "Routed":
        """The coefficients with the least Σ (log L - log L_i)².

        Raises:
            ValueError: fewer than 3 different N, fewer than 4 different E, or fewer than 7 points.
        """
        n, experts = np.array([(p.parameters, p.experts) for p in points], np.float64).reshape(-1, 2).T
        _require_points(points, 7, {"N": n})
        _require_points(points, 7, {"E": experts}, different=4)
        log_n = np.log10(n)

        def terms(log_start: Float[Array, " m"], log_max: Float[Array, " m"]) -> Array:
            start, most = 10 ** log_start[:, None], 10 ** log_max[:, None]
            log_e = np.log10(effective_experts(experts, start, np.maximum(most, _APART * start)))
            return np.stack(np.broadcast_arrays(log_n, log_e, log_n * log_e, 1.0), axis=-1)

        ranges = [(np.log10(low), np.log10(high)) for low, high in cls.RANGES.values()]
        target = np.log10([p.loss for p in points])
        (log_start, log_max), (a, b, c, d) = separable_least_squares(terms, target, ranges, nonnegative=False)
        return cls(a, b, c, d, 10**log_start, max(10**log_max, _APART * 10**log_start))


Law: TypeAlias = FineGrained | Routed
L = TypeVar("L", FineGrained, Routed)


def effective_experts(
    experts: Float[Array, "..."], e_start: Float[Array, "..."] | float, e_max: Float[Array, "..."] | float
) -> Float[Array, "..."]:
    """Ê of :class:`Routed`, which grows with E from E_start to E_max; the arguments are broadcast."""
    return 1 / (1 / (experts - 1 + 1 / (1 / e_start - 1 / e_max)) + 1 / e_max)


PUBLISHED: dict[str, Law] = {
    "krajewski": FineGrained(a=18.1, alpha=0.115, b=30.8, beta=0.147, g=2.1, gamma=0.58, c=0.47),
    "S-BASE": Routed(a=-0.082, b=-0.108, c=0.009, d=1.104, e_start=1.847, e_max=314.478),
    "RL-R": Routed(a=-0.083, b=-0.126, c=0.012, d=1.111, e_start=1.880, e_max=469.982),
    "Hash": Routed(a=-0.087, b=-0.136, c=0.012, d=1.157, e_start=4.175, e_max=477.741),
}
"""Table 1 of Krajewski et al., for 64 experts; and table 3 of Clark et al., for three ways to choose experts."""


def intervals(
    fit: Callable[[Sequence[Point]], L], points: Sequence[Point], rng: np.random.Generator, resamples: int = 200
) -> Iterator[L]:
    """Fits to points drawn with replacement, as many as there are: their percentiles are error bars.

    A resample that cannot be fitted, for instance without enough different N, is drawn again.

    Raises:
        ValueError: no resample can be fitted.
    """
    for _ in range(resamples):
        for attempt in range(_ATTEMPTS):
            drawn = [points[i] for i in rng.integers(len(points), size=len(points))]
            try:
                law = fit(drawn)
            except ValueError:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                yield law
                break


def percentiles(laws: Sequence[Law], percent: float = 90.0) -> dict[str, tuple[float, float]]:
    """The interval that holds ``percent`` of the values of each coefficient."""
    table = np.array([astuple(law) for law in laws])
    low, high = np.percentile(table, [50 - percent / 2, 50 + percent / 2], axis=0)
    names = [field.name for field in fields(laws[0])]
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _columns(points: Sequence[Point]) -> tuple[Array, Array, Array, Array]:
    table = np.array([(p.parameters, p.tokens, p.granularity, p.loss) for p in points], np.float64).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def _require_points(points: Sequence[Point], least: int, values: dict[str, Array], different: int = 3) -> None:
    if len(points) < least:
        raise ValueError(f"this law needs at least {least} points, got {len(points)}")
    for name, each in values.items():
        if len(np.unique(each)) < different:
            raise ValueError(f"this law needs at least {different} different {name}, got {np.unique(each).tolist()}")
