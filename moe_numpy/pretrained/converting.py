"""A model trained here as one of a published family: the same numbers, in settings and names that others read."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ..models import ModelConfig, Transformer
from ..models.transformer_config import Sparse
from ..nn.module import Unfilled
from .config import PublishedConfig
from .errors import PretrainedError
from .families import FAMILIES

_OF_TRAINING = {"losses", "noise", "balancer", "balance_coefficient"}  # without effect in evaluation
_SHARED = {"shared_experts", "shared_d_ff"}  # together they make a width


def targets() -> list[str]:
    """The families that a model trained here can become, if its parts are theirs."""
    return [name for name, family in FAMILIES.items() if family.settings_of is not None]


def converted(model: Transformer, family: str) -> Transformer:
    """The same model with a configuration of a published family; it shares the arrays.

    Raises:
        PretrainedError: no model of this family computes the same; the message says what differs.
    """
    config = model.config
    if not isinstance(config, ModelConfig):
        raise PretrainedError(f"only models trained here are converted, not a {type(config).__name__}")
    settings_of = FAMILIES[family].settings_of if family in FAMILIES else None
    if settings_of is None:
        raise PretrainedError(f"a model can be converted to {', '.join(targets())}, not to {family!r:.60}")
    published = PublishedConfig(settings_of(config))
    try:
        theirs = published.transformer
    except PretrainedError as error:
        raise PretrainedError(f"no {family} model computes the same: {error}") from error
    difference = next(differences("", config.transformer, theirs), None)
    if difference is not None:
        raise PretrainedError(f"no {family} model computes the same: {difference}")
    result = Transformer(published, rng=Unfilled(), dtype=np.float32)
    ours = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in [*result.named_parameters(), *result.named_buffers()]:
        tensor.data = ours[name].data
    return result.eval()  # type: ignore[return-value]


def differences(path: str, ours: Any, theirs: Any) -> Iterator[str]:
    """What is not the same in two configurations, as sentences."""
    if is_dataclass(ours) and not isinstance(ours, type) and type(ours) is type(theirs):
        if isinstance(ours, Sparse) and isinstance(theirs, Sparse):
            widths = [part.recipe.shared_width(part.d_ff) for part in (ours, theirs)]
            yield from differences(f"{path}.shared_width", *widths)
        for field in fields(ours):
            if field.name not in _OF_TRAINING | _SHARED:
                yield from differences(f"{path}.{field.name}", getattr(ours, field.name), getattr(theirs, field.name))
            elif field.name == "balancer":
                here, there = (getattr(each, field.name) for each in (ours, theirs))
                if (here is None) != (there is None):
                    yield f"{path[1:]}.balancer is {here} here and {there} there"
    elif isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(f"{path}[{i}]", *pair)
    elif ours != theirs:
        yield f"{path[1:]} is {_shown(ours)} here and {_shown(theirs)} there"


def _shown(part: Any) -> str:
    name = part.__name__ if isinstance(part, type) else f"a {type(part).__name__}" if is_dataclass(part) else repr(part)
    return name if len(name) < 80 else f"{name[:80]} ..."
