"""How fast the pairs of a head turn: the frequencies of rotary positions, as published models set them."""

import math
from dataclasses import dataclass

import numpy as np

from ..autodiff import Tensor
from ..ops import RotaryEmbedding
from ..typing import Float

Frequencies = Float[np.ndarray, " half"]


def _require_positive(what: str, **settings: float) -> None:
    """ValueError for a setting that is not a finite number above 0."""
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{what}: {name} must be above 0 and finite, got {value}")


@dataclass(frozen=True)
class Linear:
    """θ / factor: positions are squeezed into the context of training (Chen et al. 2023, section 2.3)."""

    factor: float

    def __post_init__(self) -> None:
        _require_positive("linear scaling", factor=self.factor)

    def scaled(self, theta: Frequencies, base: float, length: int) -> Frequencies:
        """The frequencies to use in place of ``theta`` for a sequence of this length."""
        return theta / self.factor

    def factor_for(self, length: int) -> float:
        """What queries and keys are multiplied by."""
        return 1.0


@dataclass(frozen=True)
class Llama3:
    """θ / factor for pairs of less than ``low`` turns in the original context, θ above ``high``, a blend between.

    (Llama 3.1, 2024.) With r = original_context θ / 2π turns and s = (r - low) / (high - low) in [0, 1]:
    θ' = (1 - s) θ / factor + s θ. Where ``low`` = ``high`` nothing is between.
    """

    factor: float
    low: float
    high: float
    original_context: int

    def __post_init__(self) -> None:
        _require_positive("Llama 3 scaling", factor=self.factor, low=self.low, high=self.high)
        if self.high < self.low:
            raise ValueError(f"Llama 3 scaling: high must be at least low={self.low}, got {self.high}")

    def scaled(self, theta: Frequencies, base: float, length: int) -> Frequencies:
        """The frequencies to use in place of ``theta`` for a sequence of this length."""
        turns = self.original_context * theta / (2 * math.pi)
        if self.high == self.low:
            share = (turns >= self.low).astype(float)
        else:
            share = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return (1 - share) * theta / self.factor + share * theta

    def factor_for(self, length: int) -> float:
        """What queries and keys are multiplied by."""
        return 1.0


@dataclass(frozen=True)
class YaRN:
    """θ for pairs that turn often in the original context, θ / factor for those that turn seldom, a ramp between.

    (Peng et al. 2023, "YaRN", sections 3.2 and 3.4.) Pair j turns n times where
    j(n) = Dh ln(original_context / (2π n)) / (2 ln base). The ramp goes from 0 at j(beta_fast) to 1 at j(beta_slow).

    Attributes:
        factor: how many times the original context is to be reached.
        original_context: that of training, in tokens.
        beta_fast: turns from which on a frequency stays.
        beta_slow: turns below which it is divided.
        truncate: whether the ends of the ramp are rounded outwards to whole pairs.
        attention_factor: what queries and keys are multiplied by; the paper's is 0.1 ln(factor) + 1.
    """

    factor: float
    original_context: int
    beta_fast: float = 32
    beta_slow: float = 1
    truncate: bool = True
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("YaRN", factor=self.factor, beta_slow=self.beta_slow, attention_factor=self.attention_factor)
        if not self.beta_slow <= self.beta_fast < math.inf:
            raise ValueError(f"YaRN: beta_fast must be at least beta_slow={self.beta_slow}, got {self.beta_fast}")

    def scaled(self, theta: Frequencies, base: float, length: int) -> Frequencies:
        """The frequencies to use in place of ``theta`` for a sequence of this length."""
        width = 2 * len(theta)
        low, high = (
            width * math.log(self.original_context / (2 * math.pi * turns)) / (2 * math.log(base))
            for turns in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        ramp = np.clip((np.arange(len(theta)) - low) / (high - low or 0.001), 0, 1)
        return theta * (1 - ramp) + theta / self.factor * ramp

    def factor_for(self, length: int) -> float:
        """What queries and keys are multiplied by."""
        return self.attention_factor


@dataclass(frozen=True)
class LongRoPE:
    """θ_j / s_j with one set of s for sequences up to the original context and one for longer ones.

    (Ding et al. 2024, "LongRoPE", section 3.) Queries and keys are multiplied by the factor of the set.

    Attributes:
        original_context: that of training, in tokens.
        short: s up to that length, one per pair.
        long: s above it.
        short_factor: what queries and keys are multiplied by up to that length.
        long_factor: above it.
    """

    original_context: int
    short: tuple[float, ...]
    long: tuple[float, ...]
    short_factor: float = 1.0
    long_factor: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("LongRoPE", short_factor=self.short_factor, long_factor=self.long_factor)
        for divisor in (*self.short, *self.long):
            _require_positive("LongRoPE", s=divisor)

    def require(self, pairs: int) -> None:
        """ValueError unless there are so many factors of each kind."""
        for divisors in (self.short, self.long):
            if len(divisors) != pairs:
                raise ValueError(f"LongRoPE needs one factor for each of {pairs} pairs, got {len(divisors)}")

    def scaled(self, theta: Frequencies, base: float, length: int) -> Frequencies:
        """The frequencies to use in place of ``theta`` for a sequence of this length."""
        self.require(len(theta))
        return theta / np.array(self.long if length > self.original_context else self.short)

    def factor_for(self, length: int) -> float:
        """What queries and keys are multiplied by."""
        return self.long_factor if length > self.original_context else self.short_factor


@dataclass(frozen=True)
class Rotary:
    """The rotation of queries and keys, see :class:`moe_numpy.ops.RotaryEmbedding`.

    Attributes:
        base: larger means slower rotation.
        width: how many entries of a head turn, from the first on; None for all.
        pairing: ``"halves"`` or ``"neighbours"``.
        scaling: for contexts longer than that of training.
    """

    base: float = 10000.0
    width: int | None = None
    pairing: str = "halves"
    scaling: Linear | Llama3 | YaRN | LongRoPE | None = None

    def __post_init__(self) -> None:
        if not 1 < self.base < math.inf:
            raise ValueError(f"the base of a rotation must be above 1 and finite, got {self.base}")

    def require(self, d_head: int) -> int:
        """How many entries of such a head turn. ValueError for an odd number, or one above ``d_head``."""
        width = d_head if self.width is None else self.width
        if width % 2 or not 0 < width <= d_head:
            what = "d_head must be even" if self.width is None else f"width must be even and at most {d_head}"
            raise ValueError(f"{what}, because rotary embedding turns pairs, got {width}")
        if isinstance(self.scaling, LongRoPE):
            self.scaling.require(width // 2)
        return width

    def frequencies(self, d_head: int, length: int = 1) -> Frequencies:
        """θ_j of each pair for sequences of this length; see :meth:`require`."""
        width = self.require(d_head)
        theta = self.base ** (-np.arange(0, width, 2) / width)
        return theta if self.scaling is None else self.scaling.scaled(theta, self.base, length)

    def apply(self, x: Float[Tensor, "B H S Dh"], offset: int) -> Float[Tensor, "B H S Dh"]:
        """x rotated, its first token at position ``offset``."""
        length = offset + x.shape[2]
        settings = {"frequencies": self.frequencies(x.shape[3], length), "pairing": self.pairing}
        factor = 1.0 if self.scaling is None else self.scaling.factor_for(length)
        rotated: Tensor = RotaryEmbedding.apply(x, offset=offset, factor=factor, **settings)
        return rotated
