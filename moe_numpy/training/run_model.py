"""The model of a run with its first weights: random ones, those of another model, or room for a checkpoint's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..models import Transformer
from ..nn.module import Unfilled
from ..pretrained import PretrainedError, PublishedConfig, from_pretrained
from .checkpoint_files import CheckpointError
from .checkpoints import load_checkpoint
from .config import TrainingConfig
from .freezing import freeze
from .memory import require_memory
from .model_settings import ModelSettings

MODEL = "model."  # what the names of a model's arrays in a checkpoint begin with


def initial_model(settings: ModelSettings, training: TrainingConfig, source: Path | None = None) -> Transformer:
    """A model to train, on the host: with random weights, or those of the run or the published model in ``source``.

    Parameters are frozen as ``training`` says. Without ``source``, those of a published model wait for a checkpoint.

    Raises:
        ValueError: this machine has too little memory, a pattern matches no parameter or they match all, or the folder
            cannot be read or holds another model (PretrainedError, CheckpointError).
    """
    require_memory(settings, training)
    if not isinstance(settings, PublishedConfig):
        model = Transformer(settings, rng=np.random.default_rng(training.seed))
        if source is not None:
            try:
                model.load_state_dict(below(MODEL, load_checkpoint(source).arrays))
            except CheckpointError:
                raise
            except ValueError as error:
                raise CheckpointError(f"{source} holds another model: {error}") from error
        freeze(model, training.freeze)
        return model
    sizes = _unfilled(settings)
    freeze(sizes, training.freeze)
    trained = sum(p.size for p in sizes.parameters() if p.requires_grad)
    require_memory(settings, training, trained=trained, frozen=sizes.num_parameters() - trained)
    model = empty_model(settings) if source is None else _published(source, settings)
    freeze(model, training.freeze)
    return model


def empty_model(settings: ModelSettings) -> Transformer:
    """A model for the weights of a checkpoint."""
    if not isinstance(settings, PublishedConfig):
        return Transformer(settings, rng=np.random.default_rng(0))
    model = _unfilled(settings)
    for _, tensor in [*model.named_parameters(), *model.named_buffers()]:
        tensor.data = np.zeros(tensor.shape, np.float32)
    return model


def below(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _unfilled(settings: PublishedConfig) -> Transformer:
    """A model without weights yet, nor memory for them."""
    try:
        return Transformer(settings, rng=Unfilled())
    except (ValueError, OverflowError) as error:  # of a part: sizes that do not divide, and the like
        raise PretrainedError(f"{settings.file}: {error}") from error


def _published(source: Path, settings: PublishedConfig) -> Transformer:
    model = from_pretrained(source, dtype=np.float32)
    found = model.config
    if not isinstance(found, PublishedConfig) or dict(found.values) != dict(settings.values):
        raise PretrainedError(f"{source / 'config.json'} has other settings than the run began with")
    model.config, model.parts = settings, settings.transformer  # of which only the context may differ
    return model
