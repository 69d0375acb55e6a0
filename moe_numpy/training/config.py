"""The configuration of training: plain values only, so that it can be stored as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..devices import DEVICES, DTYPES
from ..models.config import read_settings
from ..moe.sharding import BALANCE_SCOPES, CAPACITY_SCOPES, DEDUPLICATIONS

_ADDED: dict[str, Any] = {
    "freeze": (), "parts": None, "capacity_scope": "global", "balance_scope": "global", "rebalance_every": 0,
    "places": None, "deduplicate": "none", "top_k_from": None, "capacity_from": None, "split_every": 0,
    "split_below": 0.1, "image_batch_size": 0,
}  # fmt: skip
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
        freeze: patterns of the names of parameters, and experts, that are not trained, see
            :func:`moe_numpy.training.freezing.freeze`.
        parts: in the deterministic mode of several ranks, the parts that each batch is computed in; what they compute
            does not depend on the number of processes. None is one part for each process.
        capacity_scope: with several ranks, whether capacities are ``"global"``, those of the whole batch, or of the
            tokens of each ``"rank"``.
        balance_scope: likewise, whether balance losses are ``"global"`` or the mean of the ranks' ``"local"`` ones.
        rebalance_every: steps after which experts move to other ranks by the load since; 0 leaves them where they are.
        places: the most experts on a rank then; more than needed make replicas. None is as many as needed.
        deduplicate: with several ranks, whether a row that several experts of one rank want travels once: ``"none"``,
            ``"exact"``, or ``"sums"``, which also adds up answers and gradients before they travel, in another order.
        top_k_from: experts per token in the first step; over the first half of the steps their number falls to that of
            the recipe. None is the recipe's throughout.
        capacity_from: likewise, the factor of the capacity.
        split_every: steps after which experts with few tokens become copies of experts with many, see
            :func:`moe_numpy.training.reallocation.split_idle`; 0 is never.
        split_below: few tokens are less than this part of the fair share.
        image_batch_size: windows with pictures per forward pass, beside those of text; on the CPU and on one rank.

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
    parts: int | None = None
    capacity_scope: str = "global"
    balance_scope: str = "global"
    rebalance_every: int = 0
    places: int | None = None
    deduplicate: str = "none"
    top_k_from: int | None = None
    capacity_from: float | None = None
    split_every: int = 0
    split_below: float = 0.1
    image_batch_size: int = 0

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
        if self.image_batch_size < 0:
            raise ValueError(f"image_batch_size must not be negative, got {self.image_batch_size}")
        if self.image_batch_size and (self.device != "cpu" or self.parts is not None):
            has = f"device {self.device}" if self.device != "cpu" else f"parts={self.parts}"
            raise ValueError(f"pictures are trained on with device cpu and on one rank, without parts; got {has}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        for name in ("rebalance_every", "split_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("places", "top_k_from"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.capacity_from is not None and not 0 < self.capacity_from <= _LARGEST:
            raise ValueError(f"capacity_from must be positive, got {self.capacity_from}")
        if not 0 < self.split_below < 1:
            raise ValueError(f"split_below must be above 0 and below 1, got {self.split_below}")
        if self.parts is not None and not 1 <= self.parts <= self.batch_size:
            raise ValueError(f"parts must be between 1 and batch_size={self.batch_size}, got {self.parts}")
        for name, allowed in (
            ("device", DEVICES),
            ("dtype", DTYPES),
            ("capacity_scope", CAPACITY_SCOPES),
            ("balance_scope", BALANCE_SCOPES),
            ("deduplicate", DEDUPLICATIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.dtype == "bfloat16" and self.device == "cpu":
            raise ValueError("dtype bfloat16 needs device cuda: CPUs multiply bfloat16 matrices slowly; use float32")

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values; without what later versions added where it has its default."""
        return {name: value for name, value in asdict(self).items() if name not in _ADDED or value != _ADDED[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainingConfig":
        """Read :meth:`to_json` back. ValueError for an unknown name or a value of another type."""
        return read_settings(cls, values, "training")
