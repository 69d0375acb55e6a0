"""The configuration of training: plain values only, so that it can be stored as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..devices import DEVICES, DTYPES
from ..models.config import read_settings

_MOST = 10**9  # of steps, sequences and passes
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        steps: optimizer steps in all; the learning rate's schedule ends there.
        batch_size: sequences per forward pass.
        accumulate: forward and backward passes whose mean gradient makes one step.
        learning_rate: the peak, reached after ``warmup`` steps.
        warmup: steps of linear increase.
        weight_decay: of weights, not of biases and norm scales; decoupled from the gradient.
        max_norm: the gradient is scaled down to this norm if it is longer.
        seed: of weights, batches and noise.
        checkpoint_every: steps between checkpoints.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: of weights and activations, ``"float32"`` or, on cuda, ``"bfloat16"``; the optimizer computes in float32.
        freeze: patterns of the names of parameters that are not trained, see
            :func:`moe_numpy.training.freezing.freeze`.

    Raises:
        ValueError: a value out of range, by name.
    """

    steps: int = 300
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 3e-3
    warmup: int = 30
    weight_decay: float = 0.1
    max_norm: float = 1.0
    seed: int = 0
    checkpoint_every: int = 100
    device: str = "cpu"
    dtype: str = "float32"
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
            if getattr(self, name) > _MOST:
                raise ValueError(f"{name} must be at most {_MOST:,}, got {getattr(self, name)}")
        for name in ("learning_rate", "max_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"warmup must be at least 0 and below steps={self.steps}, got {self.warmup}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        for name in ("learning_rate", "max_norm", "weight_decay"):
            if getattr(self, name) > _LARGEST:
                raise ValueError(f"{name} must be at most {_LARGEST:.3g}, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        for name, allowed in (("device", DEVICES), ("dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.dtype == "bfloat16" and self.device == "cpu":
            raise ValueError("dtype bfloat16 needs device cuda: CPUs multiply bfloat16 matrices slowly; use float32")

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values; without ``freeze`` where nothing is frozen, as earlier versions wrote it."""
        values = asdict(self)
        return values if self.freeze else {name: value for name, value in values.items() if name != "freeze"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainingConfig":
        """Read :meth:`to_json` back. ValueError for an unknown name or a value of another type."""
        return read_settings(cls, values, "training")
