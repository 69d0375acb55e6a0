"""What is trained unless the user says otherwise."""

from typing import Any

from ..models import ModelConfig
from .config import TrainingConfig


def model(recipe_settings: dict[str, Any], **given: Any) -> ModelConfig:
    """The default model with what was given. A dense one is as wide as the default model's active experts."""
    if given.get("num_experts") == 0:
        given.setdefault("d_ff", ModelConfig(recipe_settings=recipe_settings).active_width)
    return ModelConfig(**given, recipe_settings=recipe_settings)


def training(**given: Any) -> TrainingConfig:
    """The default training with what was given; the warm-up takes at most a tenth of the steps."""
    steps = given.get("steps", TrainingConfig.steps)
    return TrainingConfig(**given, warmup=min(TrainingConfig.warmup, max(steps, 0) // 10))


def demo(**given: Any) -> tuple[ModelConfig, TrainingConfig]:
    """What ``python -m moe_numpy demo`` trains; ``given`` overrides settings of the training."""
    return ModelConfig(num_experts=16), training(**given)
