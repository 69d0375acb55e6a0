"""The learning rate over training."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, then half a cosine down to a floor::

        lr(s) = peak (s + 1) / (warmup_steps + 1)                                   s < warmup_steps
        lr(s) = floor + (peak - floor) (1 + cos(π p)) / 2                           otherwise, with
        p     = (s - warmup_steps) / (total_steps - warmup_steps), 1 at the end

    s counts the completed steps, from 0. lr(warmup_steps) is ``peak``; lr(total_steps) and everything after it
    is ``floor``, by default a tenth of the peak.

    Raises:
        ValueError: unless peak > 0, 0 <= warmup_steps <= total_steps and 0 <= floor <= peak.

    Source: Loshchilov, Hutter 2017, SGDR, equation 5, without restarts.
    """

    peak: float
    warmup_steps: int
    total_steps: int
    floor: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.peak < math.inf:
            raise ValueError(f"peak must be a positive number, got {self.peak}")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(
                f"warmup_steps must be between 0 and total_steps={self.total_steps}, got {self.warmup_steps}"
            )
        if self.floor is not None and not 0 <= self.floor <= self.peak:
            raise ValueError(f"floor must be between 0 and peak={self.peak}, got {self.floor}")

    def __call__(self, step: int) -> float:
        """The learning rate of the step after ``step`` completed ones."""
        floor = 0.1 * self.peak if self.floor is None else self.floor
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        if step >= self.total_steps:
            return floor
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return floor + (self.peak - floor) * (1 + math.cos(math.pi * progress)) / 2
