"""What is trained unless the user says otherwise."""

from typing import Any

from ..models import ModelConfig
from .config import TrainingConfig
from .pictures import IMAGE_SIZE

CONTINUED_LEARNING_RATE = 1e-4  # of a published model, whose weights need only small changes
CONTINUED_CONTEXT = 128  # at most; that of the published model, if it is less


MULTIMODAL = "multimodal"  # the recipe whose models are trained on pictures too, unless it has no experts for them
_WITH_PICTURES: dict[str, Any] = {"num_experts": 12, "image_size": IMAGE_SIZE}
_IMAGE_BATCH = 12


def has_pictures(recipe: str | None) -> bool:
    """Whether models of this recipe are trained on pictures beside text."""
    return recipe == MULTIMODAL


def model(recipe_settings: dict[str, Any], **given: Any) -> ModelConfig:
    """The default model with what was given. A dense one is as wide as the default model's active experts."""
    if has_pictures(given.get("recipe")):
        given = _WITH_PICTURES | given
    if given.get("num_experts") == 0:
        given.setdefault("d_ff", ModelConfig(recipe_settings=recipe_settings).active_width)
    return ModelConfig(**given, recipe_settings=recipe_settings)


def training(**given: Any) -> TrainingConfig:
    """The default training with what was given; the warm-up takes at most a tenth of the steps."""
    steps = given.get("steps", TrainingConfig.steps)
    return TrainingConfig(**given, warmup=min(TrainingConfig.warmup, max(steps, 0) // 10))


def with_pictures(**given: Any) -> TrainingConfig:
    """As :func:`training`, with windows of pictures in each batch."""
    return training(**{"image_batch_size": _IMAGE_BATCH, **given})


def continued(**given: Any) -> TrainingConfig:
    """How a published model is trained further: as :func:`training`, with a peak learning rate of 1e-4."""
    return training(**{"learning_rate": CONTINUED_LEARNING_RATE, **given})


def demo(**given: Any) -> tuple[ModelConfig, TrainingConfig]:
    """What ``python -m moe_numpy demo`` trains; ``given`` overrides settings of the training."""
    return ModelConfig(num_experts=16), training(**given)
