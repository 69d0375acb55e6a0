"""``config.json`` of a published model: which family it is, and what its settings make of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from ..models import TransformerConfig
from .errors import PretrainedError, quoted
from .families import FAMILIES, MISSING, Family
from .fields import Fields, Limits
from .pieces import Piece
from .published_files import SETTINGS_LIMIT, read_json
from .quantisation import METHOD, Quantisation
from .safetensors_file import StoredTensor
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
        limits: of the sizes among them.
        window: the longest sequence, where that is less than published; rotary settings stay those of the whole.
    """

    values: Mapping[str, Any]
    file: Path = field(default=Path(FILE))
    limits: Limits = field(default=Limits())
    window: int | None = field(default=None, kw_only=True)

    @classmethod
    def read(cls, folder: Path, tensors: Mapping[str, StoredTensor]) -> "PublishedConfig":
        """The configuration in a folder with these tensors, which limit its sizes before anything has these sizes.

        Raises:
            PretrainedError: it is missing, damaged, of an unknown family, or a setting is not understood.
        """
        config = cls(read_json(folder / FILE, dict[str, Any], SETTINGS_LIMIT), folder / FILE)
        axis = max(
            (length for tensor in tensors.values() if 0 not in tensor.shape for length in tensor.shape), default=0
        )
        config = replace(config, limits=Limits(axis, config.family.num_layers(tensors)))
        config.transformer  # noqa: B018 (raises)
        config.quantisation  # noqa: B018 (raises)
        return config

    @classmethod
    def from_json(cls, values: Mapping[str, Any], file: Path) -> "PublishedConfig":
        """Read :meth:`to_json` back, from a file.

        Raises:
            PretrainedError: an entry is missing or of another type, a setting is not understood, or the context is not
                within the published one.
        """
        try:
            described = msgspec.convert(values, _Json)
        except msgspec.ValidationError as error:
            raise PretrainedError(f"{file} is damaged: {error} - of the model") from error
        config = cls(described.published, file, window=described.context)
        config.transformer  # noqa: B018 (raises)
        return config

    @property
    def model_type(self) -> str:
        """The name of the family."""
        found: str = Fields(self.values, self.file).take(str, "model_type")
        if found in MISSING:
            raise PretrainedError(
                f"{self.file}: model_type {quoted(found)} is not supported: it needs {MISSING[found]}"
            )
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
        fields = Fields(self.values, self.file, limits=self.limits)
        fields.skip("quantization_config")  # see quantisation and fp8_block
        try:
            transformer = self.family.transformer(fields)
        except PretrainedError:
            raise
        except ValueError as error:  # of a part: sizes that do not divide, and the like
            raise PretrainedError(f"{self.file}: {error}") from error
        fields.finish()
        return replace(transformer, context=self._context(transformer), balance_coefficient=self._balance())

    def _context(self, transformer: TransformerConfig) -> int:
        if self.window is None:
            return transformer.context
        if not 1 <= self.window <= transformer.context:
            raise PretrainedError(
                f"{self.file}: context must be between 1 and {transformer.context}, for which the model was published, "
                f"got {self.window}"
            )
        return self.window

    def _balance(self) -> float:
        """The coefficient of the balance loss over all layers; 0 if the family or the file has none."""
        if self.family.balance is None:
            return 0.0
        *parts, name = self.family.balance.split(".")
        fields: Fields | None = Fields(self.values, self.file)
        for part in parts:
            fields = fields and fields.part(part)
        return 0.0 if fields is None else fields.number(name, default=0.0, least=0)

    @property
    def context(self) -> int:
        """The longest sequence, in tokens."""
        return self.transformer.context

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.transformer.vocab_size

    @property
    def num_experts(self) -> int:
        """E, of the layer with the most; 0 in a dense model."""
        return self.transformer.num_experts

    @property
    def routed_layers(self) -> list[int]:
        """The indices of the layers with a router."""
        return self.transformer.routed_layers

    @property
    def num_routes(self) -> int:
        """The options of a router."""
        return self.transformer.num_routes

    def pieces(self, arrays: Mapping[str, Any]) -> Iterator[Piece]:
        """Where the published tensors belong in the parameters and buffers of the model, given by name."""
        return self.family.pieces(arrays)

    def skipped(self, names: Iterable[str]) -> set[str]:
        """Those of the tensors of a folder that are no part of the model."""
        return self.family.skipped(names, len(self.transformer.layers))

    @cached_property
    def quantisation(self) -> Quantisation | None:
        """The formats of a model that was quantised here; None for others."""
        fields = Fields(self.values, self.file).part("quantization_config")
        if fields is None or fields.expect("quant_method", METHOD, "fp8", "mxfp4") != METHOD:
            return None
        return Quantisation.read(fields)

    @property
    def fp8_block(self) -> tuple[int, int] | None:
        """Rows and columns of a block of published FP8 weights; None without a ``quantization_config`` of that kind."""
        fields = Fields(self.values, self.file).part("quantization_config")
        if fields is not None and self.quantisation is not None:
            fields = fields.part("published")
        if fields is None or fields.expect("quant_method", "fp8", "mxfp4") != "fp8":
            return None
        fields.expect("fmt", "e4m3", "float8_e4m3fn", default="e4m3")
        block = fields.take(tuple[int, int], "weight_block_size")
        if min(block) < 1:
            fields.refuse("weight_block_size", "rows and columns must be at least 1")
        return block

    def quantised(self, formats: Quantisation) -> dict[str, Any]:
        """The settings to write with the model in these formats."""
        return {**self.values, "quantization_config": formats.to_json(self.values.get("quantization_config"))}

    def written(self) -> "PublishedConfig":
        """The settings to write with the model: without a ``quantization_config``, since weights are floats here."""
        values = {name: value for name, value in self.values.items() if name != "quantization_config"}
        return replace(self, values=self.family.written(values), window=None)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values: the settings as published, and the context."""
        return {"published": dict(self.values), "context": self.context}


class _Json(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What :meth:`PublishedConfig.to_json` gives."""

    published: dict[str, Any]
    context: int
