"""Checkpoints: the arrays of a run in safetensors, and a JSON file with their size and checksum.

    runs/NAME/checkpoint-000200.safetensors    weights, optimizer moments: every array by name
    runs/NAME/checkpoint-000200.json           format, step, size and SHA-256 of the arrays; and meta

The number counts completed steps. The JSON is renamed into place last, so a checkpoint exists if and only if its JSON
does, and a crash while writing one leaves the earlier ones. Nothing is pickled: loading runs no code.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from ..files import TEMPORARY_SUFFIX, read_json, write_atomically
from ..kernels import to_host

FORMAT = "moe_numpy checkpoint"
FORMAT_VERSION = 1
_KEPT = 2
_OURS = re.compile(rf"checkpoint-\d{{6,}}(\.again)?\.(safetensors|json)({re.escape(TEMPORARY_SUFFIX)})?")


_STORABLE = {"bool", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged; the message names the file, the fault and an intact checkpoint."""


class _Tensors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: str
    bytes: int
    sha256: str


class _Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON of a checkpoint."""

    format: str
    format_version: int
    step: int
    tensors: _Tensors
    meta: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run needs to continue: NumPy arrays by name, and ``meta``, plain JSON values."""

    step: int
    arrays: dict[str, Any]
    meta: dict[str, Any]


def list_checkpoints(folder: Path) -> list[int]:
    """The steps of the checkpoints in a run folder, ascending, not verified."""
    names = (re.fullmatch(r"checkpoint-(\d{6,})\.json", path.name) for path in folder.glob("checkpoint-*.json"))
    return sorted(int(name[1]) for name in names if name)


def save_checkpoint(folder: Path, step: int, arrays: Mapping[str, Any], meta: dict[str, Any]) -> None:
    """Write the checkpoint of ``step`` completed steps, then delete all others except the newest before it.

    Later ones are deleted too: the run has since been resumed from before them.

    Args:
        folder: the run folder; made if it does not exist.
        step: completed steps.
        arrays: of booleans, integers or floats, on any device, by name. bfloat16 is stored as float32.
        meta: anything else, as plain JSON values.

    Raises:
        ValueError: ``step`` is negative, an array's dtype has no safetensors type, or ``meta`` holds NaN.
        TypeError: ``meta`` holds something that JSON cannot.
        OSError: the disk failed or is full. Earlier checkpoints are unchanged.
    """
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    folder.mkdir(parents=True, exist_ok=True)
    content = _serialized(arrays)
    tensors, description = _free_name(folder, step), _description(folder, step)
    described = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": step,
        "tensors": {"file": tensors.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        "meta": meta,
    }
    text = json.dumps(described, indent=2, allow_nan=False) + "\n"
    write_atomically({tensors: content, description: text})
    _prune(folder, step)


def load_checkpoint(folder: Path, step: int | None = None) -> Checkpoint:
    """Read and verify a checkpoint: the newest, or the one of ``step``.

    Raises:
        CheckpointError: there is none, or it is truncated, damaged, or not of this format and version. The
            message says which other checkpoint in the folder is intact, if one is.
    """
    steps = list_checkpoints(folder)
    if not steps:
        raise CheckpointError(f"{folder} holds no checkpoint")
    if step is None:
        step = steps[-1]
    elif step not in steps:
        raise CheckpointError(f"{folder} holds no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    try:
        return _load(folder, step)
    except CheckpointError as error:
        others = [other for other in reversed(steps) if other != step and _is_intact(folder, other)]
        way_out = (
            f"step {others[0]} is intact: --resume --from-step {others[0]}" if others else "no other one is intact"
        )
        raise CheckpointError(f"{error}; {way_out}") from error


def _description(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step:06d}.json"


def _load(folder: Path, step: int) -> Checkpoint:
    description = _description(folder, step)
    content = _read_description(description)
    if content.step != step:
        raise CheckpointError(f"{description} describes step {content.step}, not the step of its name")
    tensors = folder / content.tensors.file
    try:
        size, expected = tensors.stat().st_size, content.tensors.bytes
        if size != expected:
            fault = "truncated" if size < expected else "not the file that was saved"
            raise CheckpointError(f"{tensors} has {size} bytes, {expected} were saved: it is {fault}")
        if _sha256(tensors) != content.tensors.sha256:
            raise CheckpointError(f"{tensors} does not have the SHA-256 it was saved with: it has changed since")
        arrays = safetensors.numpy.load_file(tensors)
    except FileNotFoundError as error:
        raise CheckpointError(f"{tensors} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{tensors} cannot be read: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{tensors} is not a safetensors file: {error}") from error
    return Checkpoint(step, arrays, content.meta)


def _read_description(path: Path) -> _Description:
    """The JSON of a checkpoint. CheckpointError unless it is as :func:`save_checkpoint` writes it."""
    try:
        content: Any = read_json(path, Any)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f'{path} was not written by moe_numpy: it lacks "format": "{FORMAT}"')
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {version}; this moe_numpy reads {FORMAT_VERSION}")
    try:
        described = msgspec.convert(content, _Description)
        if not _OURS.fullmatch(described.tensors.file):
            raise ValueError(f"no checkpoint is called {described.tensors.file!r}")
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: step, tensors or meta is missing or malformed: {error}") from error
    return described


def _is_intact(folder: Path, step: int) -> bool:
    try:
        _load(folder, step)
    except CheckpointError:
        return False
    return True


def _free_name(folder: Path, step: int) -> Path:
    """The name for new arrays of this step. A second save keeps the first's until the JSON names the new ones."""
    plain, again = (folder / f"checkpoint-{step:06d}{suffix}.safetensors" for suffix in ("", ".again"))
    description = _description(folder, step)
    if not description.exists():
        return plain
    try:
        return again if _read_description(description).tensors.file == plain.name else plain
    except CheckpointError:  # at this moment; neither is touched as long as that is possible
        return again if plain.exists() and not again.exists() else plain


def _serialized(arrays: Mapping[str, Any]) -> bytes:
    on_cpu = {name: _on_host(array) for name, array in arrays.items()}
    for name, array in on_cpu.items():
        if array.dtype.name not in _STORABLE:
            raise ValueError(f"array {name!r} has dtype {array.dtype}, which cannot be saved")
    return safetensors.numpy.save(on_cpu)  # save_file leaves a temporary file of its own behind when it is killed


def _on_host(array: Any) -> Any:
    array = to_host(array)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)  # the same numbers, in a type that every reader knows
    return np.asarray(array, order="C")  # safetensors needs that; np.ascontiguousarray would turn 0-d into 1-d


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prune(folder: Path, step: int) -> None:
    """Delete the checkpoints that are not kept, JSON first, and all files that no checkpoint refers to.

    What a JSON that cannot be read refers to is not known, so all files of its step stay.
    """
    steps = list_checkpoints(folder)
    kept = [s for s in steps if s <= step][-_KEPT:]
    for s in steps:
        if s not in kept:
            os.remove(_description(folder, s))
    referred = set()
    for s in kept:
        description = _description(folder, s)
        try:
            referred |= {description.name, _read_description(description).tensors.file}
        except CheckpointError:
            referred |= {path.name for path in folder.glob(f"{description.stem}.*")}
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in referred:
            os.remove(path)
