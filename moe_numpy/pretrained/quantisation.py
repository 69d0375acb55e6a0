"""What ``config.json`` says of a model that ``python -m moe_numpy quantize`` wrote. The rest of it is as published.

    "quantization_config": {
      "quant_method": "moe_numpy",
      "version": 1,
      "experts": "int4",        the format of the experts' matrices; null: as published
      "rest": "int8",           of all other matrices; null: as published
      "group_size": 32,         weights with a scale in common, in int8, int4 and mxfp4
      "unquantized": [...],     what stays as published in any case
      "published": {...}        the quantization_config of the published model, if it had one
    }

Routers, norms and biases decide or shift whole rows and are small, so they are never quantised; nor is the embedding,
of which a token reads one row. ``moe_numpy.formats`` has the formats. A matrix whose width is no multiple of 32 is in
bfloat16. Names and shapes of the tensors: ``quantised.py``.
"""

from dataclasses import dataclass
from typing import Any

from ..formats import FORMATS
from ..formats.groups import GROUP
from .fields import Fields

METHOD, VERSION = "moe_numpy", 1
UNQUANTIZED = (
    "embedding",
    "norms",
    "routers",
    "biases",
    "attention sinks",
    "keys and values made from latents",
    "gates of shared experts",
)


@dataclass(frozen=True)
class Quantisation:
    """Formats of a model's matrices, by name; None: as published.

    Attributes:
        experts: of the experts.
        rest: of the other matrices.
    """

    experts: str | None = None
    rest: str | None = None

    def __str__(self) -> str:
        found = {"experts": self.experts, "rest": self.rest}
        return ", ".join(f"{name} {format}" for name, format in found.items() if format is not None)

    @classmethod
    def read(cls, fields: Fields) -> "Quantisation":
        """From a ``quantization_config`` of ours. PretrainedError for what this version does not know."""
        fields.skip("quant_method", "published")
        fields.expect("version", VERSION)
        fields.expect("group_size", GROUP)
        fields.expect("unquantized", list(UNQUANTIZED))
        found = cls(*(fields.expect(name, None, *FORMATS, default=None) for name in ("experts", "rest")))
        if found == cls():
            fields.refuse("rest", f"it or experts must be one of {', '.join(FORMATS)}")
        fields.finish()
        return found

    def to_json(self, published: Any = None) -> dict[str, Any]:
        """The section to write; with the one that the published model had."""
        known = {
            "quant_method": METHOD,
            "version": VERSION,
            "experts": self.experts,
            "rest": self.rest,
            "group_size": GROUP,
            "unquantized": list(UNQUANTIZED),
        }
        return known if published is None else {**known, "published": published}
