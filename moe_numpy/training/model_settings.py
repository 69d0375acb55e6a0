"""The settings of the model of a run: of one made here, or of a published one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models import ModelConfig
from ..pretrained import PublishedConfig

ModelSettings = ModelConfig | PublishedConfig
"""Both have ``vocab_size``, ``context``, ``num_experts``, ``routed_layers``, ``num_routes``, ``transformer`` and
``to_json``. No Protocol: to check for one would call these properties, whatever the sizes are."""


def read_model_settings(values: Mapping[str, Any], file: Path) -> ModelSettings:
    """Read ``to_json()`` back, from a file. ValueError for an unknown name or a wrong value."""
    return PublishedConfig.from_json(values, file) if "published" in values else ModelConfig.from_json(values)


def plain_settings(settings: ModelSettings) -> dict[str, Any]:
    """The settings by name, to compare."""
    values = settings.to_json()
    published = values.pop("published", {})
    return values | {f"published.{name}": value for name, value in published.items()}
