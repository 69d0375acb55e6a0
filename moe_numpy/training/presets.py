"""What is trained unless the user says otherwise."""

from typing import Any

from ..models import ModelConfig
from .config import TrainingConfig

CONTINUED_LEARNING_RATE = 1e-4  # of a published model, whose weights need only small changes
CONTINUED_CONTEXT = 128  # at most; that of the published model, if it is less


def model(recipe_settings: dict[str, Any], **given: Any) -> ModelConfig:
    """The default model with what was given. A dense one is as wide as the default model's active experts."""
    if given.get("num_experts") == 0:
        given.setdefault("d_ff", ModelConfig(recipe_settings=recipe_settings).active_width)
    return ModelConfig(**given, recipe_settings=recipe_settings)


def training(**given: Any) -> TrainingConfig:
    """The default training with what was given; the warm-up takes at most a tenth of the steps."""
    steps = given.get("steps", TrainingConfig.steps)
    return TrainingConfig(**given, warmup=min(TrainingConfig.warmup, max(steps, 0) // 10))


def continued(**given: Any) -> TrainingConfig:
    """How a published model is trained further: as :func:`training`, with a peak learning rate of 1e-4."""
    return training(**{"learning_rate": CONTINUED_LEARNING_RATE, **given})


def demo(**given: Any) -> tuple[ModelConfig, TrainingConfig]:
    """What ``python -m moe_numpy demo`` trains; ``given`` overrides settings of the training."""
    return ModelConfig(num_experts=16), training(**given)
