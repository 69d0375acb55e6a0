"""A line of ``history.jsonl``."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step did: a record of the run's history."""

    step: int  # completed steps, this one included
    loss: float  # cross-entropy in nats per token
    auxiliary_loss: float
    learning_rate: float
    gradient_norm: float
    dropped_fraction: float
    expert_load: list[list[float]]  # share of assignments, per routed layer and expert
    seconds: float
    splits: list[list[int]] = field(default_factory=list)  # layer, idle expert, and the one it became a copy of
    # of steps with pictures:
    text_loss: float | None = None
    caption_loss: float | None = None
    auxiliary_losses: dict[str, float] | None = None  # by name, summed over the layers, without coefficients
    load_by_modality: list[list[list[float]]] | None = None  # per layer, modality and expert
