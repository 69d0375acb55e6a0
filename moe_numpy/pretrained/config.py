"""``config.json`` of a published model: which family it is, and what its settings make of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..models import TransformerConfig
from .errors import PretrainedError, quoted
from .families import FAMILIES, Family
from .fields import Fields
from .pieces import Piece
from .published_files import read_json
from .tensor_files import INDEX, SINGLE

FILE = "config.json"


def is_published(folder: Path) -> bool:
    """Whether a folder looks like a published model, damaged or not; a run has other files."""
    if (folder / FILE).is_file():
        try:
            content = read_json(folder / FILE, dict[str, Any])
        except PretrainedError:
            content = {}
        if "model_type" in content or "training" in content:
            return "model_type" in content
    return any((folder / name).exists() for name in (SINGLE, INDEX))


@dataclass(frozen=True, eq=False)
class PublishedConfig:
    """The settings of a published model.

    Attributes:
        values: the content of ``config.json``.
        file: where it is.
    """

    values: Mapping[str, Any]
    file: Path = field(default=Path(FILE))

    @classmethod
    def read(cls, folder: Path) -> "PublishedConfig":
        """The configuration in a folder.

        Raises:
            PretrainedError: it is missing, damaged, of an unknown family, or a setting is not understood.
        """
        config = cls(read_json(folder / FILE, dict[str, Any]), folder / FILE)
        config.transformer  # noqa: B018 (raises)
        return config

    @property
    def model_type(self) -> str:
        """The name of the family."""
        found = self.values.get("model_type")
        if not isinstance(found, str):
            raise PretrainedError(f"{self.file} has no model_type")
        if found not in FAMILIES:
            raise PretrainedError(f"{self.file}: model_type {quoted(found)} is none of {', '.join(sorted(FAMILIES))}")
        return found

    @property
    def family(self) -> Family:
        """How models of this kind are published."""
        return FAMILIES[self.model_type]

    @cached_property
    def transformer(self) -> TransformerConfig:
        """The model, layer by layer."""
        fields = Fields(self.values, self.file)
        try:
            transformer = self.family.transformer(fields)
        except PretrainedError:
            raise
        except ValueError as error:  # of a part: sizes that do not divide, and the like
            raise PretrainedError(f"{self.file}: {error}") from error
        fields.finish()
        return transformer

    def pieces(self, arrays: Mapping[str, Any]) -> Iterator[Piece]:
        """Where the published tensors belong in the parameters and buffers of the model, given by name."""
        return self.family.pieces(arrays)

    def skips(self, name: str) -> bool:
        """Whether a published tensor of this name is no part of the model."""
        return self.family.skips(name, len(self.transformer.layers))

    @property
    def fp8_block(self) -> tuple[int, int] | None:
        """Rows and columns of a block of FP8 weights; None without a ``quantization_config`` of that kind."""
        settings = self.values.get("quantization_config")
        if settings is None:
            return None
        fields = Fields(settings, self.file, "quantization_config") if isinstance(settings, dict) else None
        method = fields and fields.expect("quant_method", "fp8", "mxfp4")
        if fields is None or method != "fp8":
            return None
        block = fields.take(tuple[int, int], "weight_block_size")
        if min(block) < 1:
            fields.refuse("weight_block_size", "rows and columns must be at least 1")
        return block

    def written(self) -> "PublishedConfig":
        """The settings to write with the model: without a ``quantization_config``, since weights are floats here."""
        values = {name: value for name, value in self.values.items() if name != "quantization_config"}
        return replace(self, values=self.family.written(values))

    def to_json(self) -> dict[str, Any]:
        """The settings as they are."""
        return dict(self.values)
