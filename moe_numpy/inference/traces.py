"""Recorded requests for experts, as JSON:

    {
      "kind": "moe_numpy expert trace",
      "version": 1,
      "slot_bytes": 8192,                              memory that one expert takes in a store
      "expert_bytes": {"1": [6144, 6144], ...},        by layer, what is read for each of its experts
      "requests": [
        {"step": 0, "layer": 1, "experts": [0, 1], "rows": [5, 2]},     a prompt: how many tokens chose each
        {"step": 1, "layer": 1, "experts": [1], "guess": [0, 1]},       a token
        ...
      ]
    }

A step is one pass through the layers. ``rows`` is there where several tokens share the step: its experts are used one
after the other. Otherwise they are needed at once. ``guess`` holds the experts that were expected before.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..files import read_json, write_atomically

KIND, VERSION = "moe_numpy expert trace", 1

_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**48)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one layer asks for in one step.

    Attributes:
        step: of the model; steps never descend.
        layer: of the experts.
        experts: each once.
        rows: how many tokens chose each, where several tokens share the step; otherwise empty.
        guess: experts that were expected before this request.
    """

    step: _Natural
    layer: _Natural
    experts: tuple[_Natural, ...]
    rows: tuple[_Positive, ...] = ()
    guess: tuple[_Natural, ...] = ()


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    version: int
    slot_bytes: _Positive
    expert_bytes: dict[str, tuple[_Natural, ...]]
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Trace:
    """The requests for experts while a model was used.

    Attributes:
        expert_bytes: by layer, the bytes of each expert.
        slot_bytes: memory that one expert takes.
        requests: in order.

    Raises:
        ValueError: a request does not fit; the message names it.
    """

    expert_bytes: Mapping[int, tuple[int, ...]]
    slot_bytes: int
    requests: tuple[Request, ...]

    def __post_init__(self) -> None:
        largest = max((max(of, default=0) for of in self.expert_bytes.values()), default=0)
        if self.slot_bytes < max(largest, 1):
            raise ValueError(f"slot_bytes must be at least {max(largest, 1)}, got {self.slot_bytes}")
        step = 0
        for i, request in enumerate(self.requests):
            fault = self._fault(request, step)
            if fault:
                raise ValueError(f"requests[{i}] {fault}")
            step = request.step

    def _fault(self, request: Request, step: int) -> str | None:
        if request.layer not in self.expert_bytes:
            return f"is for layer {request.layer}, expert_bytes has layers {sorted(self.expert_bytes)}"
        num_experts = len(self.expert_bytes[request.layer])
        for name, experts in (("experts", request.experts), ("guess", request.guess)):
            if max(experts, default=-1) >= num_experts:
                return f"has {max(experts)} in {name}, layer {request.layer} has experts 0 to {num_experts - 1}"
            if len(set(experts)) < len(experts):
                return f"has an expert twice in {name}"
        if request.rows and len(request.rows) != len(request.experts):
            return f"has {len(request.experts)} experts and {len(request.rows)} rows"
        if request.step < step:
            return f"is of step {request.step}, after one of step {step}"
        return None

    @property
    def num_experts(self) -> int:
        """Of all layers together."""
        return sum(map(len, self.expert_bytes.values()))

    @property
    def at_once(self) -> int:
        """The most experts that a request needs at the same time."""
        return max((1 if r.rows else len(r.experts) for r in self.requests), default=1)

    def save(self, path: Path) -> None:
        """Write it. OSError if the disk failed; the old file is then unchanged."""
        head = {
            "kind": KIND,
            "version": VERSION,
            "slot_bytes": self.slot_bytes,
            "expert_bytes": {str(layer): list(of) for layer, of in self.expert_bytes.items()},
        }
        lines = ",\n".join("    " + msgspec.json.encode(request).decode() for request in self.requests)
        fields = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items())
        write_atomically({path: f'{{\n{fields},\n  "requests": [\n{lines}\n  ]\n}}\n'})

    @classmethod
    def load(cls, path: Path) -> "Trace":
        """Read it back.

        Raises:
            ValueError: it is not a trace, of another version, or does not fit itself; the message names the file.
            OSError: it cannot be read.
        """
        document: Any = read_json(path, _Document)
        if document.kind != KIND:
            raise ValueError(f"{path}: kind is {document.kind!r}, expected {KIND!r}")
        if document.version != VERSION:
            raise ValueError(f"{path}: version is {document.version}, expected {VERSION}")
        for name in document.expert_bytes:
            if not (name.isascii() and name.isdigit() and len(name) < 10):
                raise ValueError(f"{path}: expert_bytes has {name!r}, expected the number of a layer")
        sizes = {int(name): of for name, of in document.expert_bytes.items()}
        try:
            return cls(sizes, document.slot_bytes, document.requests)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
