"""The files of a checkpoint: their names, and the JSON that says what belongs to it.

    format_version 1    ``tensors``: one file, with all arrays
    format_version 2    ``shards``: a file of each rank that has something of its own; and ``experts``: of the arrays
                        with an entry for each expert, which of them each shard has, and who held which

Version 1 is written whenever one file holds everything.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..files import TEMPORARY_SUFFIX, read_json
from ..parallel import Placement

FORMAT = "moe_numpy checkpoint"
FORMAT_VERSIONS = (1, 2)
AGAIN = ".again"  # in the names of arrays that replace others of the same step
_OURS = re.compile(
    rf"checkpoint-(?P<step>\d{{6,}})(\.json|(-\d{{5}}-of-\d{{5}})?({re.escape(AGAIN)})?\.safetensors)"
    rf"({re.escape(TEMPORARY_SUFFIX)})?"
)


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged; the message names the file, the fault and an intact checkpoint."""


class TensorFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of arrays as it was saved."""

    file: str
    bytes: int
    sha256: str


class SplitArrays(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arrays with an entry for each expert: the experts in each shard, and who held which."""

    arrays: list[str]
    shards: list[list[int]]
    placement: dict[str, Any]


class _Version1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    format_version: int
    step: int
    tensors: TensorFile
    meta: dict[str, Any]


class _Version2(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    format_version: int
    step: int
    shards: list[TensorFile]
    experts: list[SplitArrays]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Description:
    """What the JSON of a checkpoint says.

    Attributes:
        step: completed steps.
        files: with the arrays.
        experts: the arrays of which each file has some entries; every other one is whole in one file.
        meta: plain JSON values.
    """

    step: int
    files: Sequence[TensorFile]
    experts: Sequence[SplitArrays]
    meta: Mapping[str, Any]

    def to_json(self) -> str:
        """The content of the file. ValueError or TypeError if ``meta`` holds NaN or something that JSON cannot."""
        files = [msgspec.to_builtins(each) for each in self.files]
        one = {"tensors": files[0]} if len(files) == 1 else {}
        several = {"shards": files, "experts": msgspec.to_builtins(self.experts)} if len(files) > 1 else {}
        version = {"format": FORMAT, "format_version": 1 if one else 2, "step": self.step}
        return json.dumps(version | one | several | {"meta": self.meta}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Description":
        """CheckpointError unless the file is as :meth:`to_json` writes it."""
        try:
            content: Any = read_json(path, Any)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise CheckpointError(f'{path} was not written by moe_numpy: it lacks "format": "{FORMAT}"')
        version = content.get("format_version")
        if version not in FORMAT_VERSIONS:
            readable = " and ".join(map(str, FORMAT_VERSIONS))
            raise CheckpointError(f"{path} has format version {version}; this moe_numpy reads {readable}")
        try:
            description = cls._of(content)
            description._validate()
        except ValueError as error:
            arrays = "tensors" if version == 1 else "shards, experts"
            raise CheckpointError(
                f"{path} is damaged: step, {arrays} or meta is missing or malformed: {error}"
            ) from error
        return description

    @classmethod
    def _of(cls, content: dict[str, Any]) -> "Description":
        if content["format_version"] == 1:
            old = msgspec.convert(content, _Version1)
            return cls(old.step, [old.tensors], [], old.meta)
        new = msgspec.convert(content, _Version2)
        return cls(new.step, new.shards, new.experts, new.meta)

    def _validate(self) -> None:
        if not self.files:
            raise ValueError("there are no files")
        for each in self.files:
            if step_of(each.file) is None:
                raise ValueError(f"no checkpoint is called {each.file!r}")
        for split in self.experts:
            num_experts = Placement.from_json(split.placement).num_experts
            if len(split.shards) != len(self.files):
                raise ValueError(f"{len(self.files)} shards, but experts of {len(split.shards)}")
            if sorted(e for held in split.shards for e in held) != list(range(num_experts)):
                raise ValueError(f"the shards should have each of {num_experts} experts once, got {split.shards}")


def description_path(folder: Path, step: int) -> Path:
    """Where the JSON of a checkpoint is."""
    return folder / f"checkpoint-{step:06d}.json"


def step_of(name: str) -> int | None:
    """The step of the checkpoint that a file of this name belongs to; None if it is none of ours."""
    match = _OURS.fullmatch(name)
    return None if match is None else int(match["step"])


def tensor_names(step: int, num_files: int, suffix: str) -> list[str]:
    """How the files with arrays are called: a single one by the step, several also by their number."""
    stem = f"checkpoint-{step:06d}"
    numbers = [f"-{n:05d}-of-{num_files:05d}" for n in range(1, num_files + 1)] if num_files > 1 else [""]
    return [f"{stem}{number}{suffix}.safetensors" for number in numbers]


def free_suffix(folder: Path, step: int) -> str:
    """What the names of new arrays of this step end with, so that those of a first save stay until the JSON names the
    new ones."""
    description = description_path(folder, step)
    if not description.exists():
        return ""
    try:
        return "" if any(AGAIN in each.file for each in Description.read(description).files) else AGAIN
    except CheckpointError:  # at this moment; neither is touched as long as that is possible
        there = [path.name for path in folder.glob("checkpoint-*.safetensors") if step_of(path.name) == step]
        return AGAIN if there and not any(AGAIN in name for name in there) else ""
