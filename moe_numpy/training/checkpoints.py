"""Checkpoints: the arrays of a run in safetensors, and a JSON file with their sizes and checksums.

    runs/NAME/checkpoint-000200.safetensors    weights, optimizer moments: every array by name
    runs/NAME/checkpoint-000200.json           format, step, size and SHA-256 of the arrays; and meta

Several ranks write a shard each: the first rank what all have, every rank the experts that no lower one holds.

    runs/NAME/checkpoint-000200-00001-of-00004.safetensors ...

The number counts completed steps. The JSON is renamed into place last, so a checkpoint exists if and only if its JSON
does, and a crash while writing one leaves the earlier ones. Nothing is pickled: loading runs no code. Any number of
ranks reads what any other number has written.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy

from ..files import write_atomically
from ..kernels import to_host
from ..parallel import Alone, Communicator, Holding
from ..parallel.collectives import failing_together, gather_texts
from ..parallel.replicas import first_replicas
from .checkpoint_files import (
    CheckpointError,
    Description,
    SplitArrays,
    TensorFile,
    description_path,
    free_suffix,
    step_of,
    tensor_names,
)
from .stored_checkpoint import Checkpoint, StoredCheckpoint, verify

_KEPT = 2
_STORABLE = {"bool", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def list_checkpoints(folder: Path) -> list[int]:
    """The steps of the checkpoints in a run folder, ascending, not verified."""
    steps = (step_of(path.name) for path in folder.glob("checkpoint-*.json"))
    return sorted(step for step in steps if step is not None)


def save_checkpoint(
    folder: Path,
    step: int,
    arrays: Mapping[str, Any],
    meta: dict[str, Any],
    communicator: Communicator | None = None,
    spread: Mapping[str, Holding] | None = None,
) -> None:
    """Write the checkpoint of ``step`` completed steps, then delete all others except the newest before it.

    Later ones are deleted too: the run has since been resumed from before them. All ranks together, in a folder that
    all of them see; each returns when the checkpoint is there.

    Args:
        folder: the run folder; made if it does not exist.
        step: completed steps.
        arrays: of booleans, integers or floats, on any device, by name. bfloat16 is stored as float32.
        meta: anything else, as plain JSON values; that of the first rank counts.
        communicator: the ranks; this one alone by default.
        spread: of the arrays that have an entry for each expert of this rank, who holds which.

    Raises:
        ValueError: ``step`` is negative, an array's dtype has no safetensors type, or ``meta`` holds NaN.
        TypeError: ``meta`` holds something that JSON cannot.
        OSError: the disk of a rank failed or is full. Earlier checkpoints are unchanged.
    """
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    ranks, spread = communicator or Alone(), spread or {}
    json.dumps(meta, allow_nan=False)  # before anything is written
    content = _serialized(_own(arrays, spread, ranks.rank))
    folder.mkdir(parents=True, exist_ok=True)
    suffix = gather_texts(ranks, free_suffix(folder, step) if ranks.rank == 0 else "", "checkpoint")[0]
    writers = _writers(spread, ranks.size)
    names = dict(zip(writers, tensor_names(step, len(writers), suffix), strict=True))
    try:
        with failing_together(ranks, "checkpoint"):
            if ranks.rank in names:
                write_atomically({folder / names[ranks.rank]: content})
        files = _described(ranks, names.get(ranks.rank), content)
        with failing_together(ranks, "checkpoint"):
            if ranks.rank == 0:
                description = Description(step, files, _split(spread, writers), meta)
                write_atomically({description_path(folder, step): description.to_json()})
    except OSError:  # on all ranks, and the JSON is not in place
        if ranks.rank in names:
            (folder / names[ranks.rank]).unlink(missing_ok=True)
        raise
    with failing_together(ranks, "checkpoint"):  # nobody writes the next one before
        if ranks.rank == 0:
            _prune(folder, step)


def load_checkpoint(folder: Path, step: int | None = None) -> Checkpoint:
    """Read and verify a checkpoint: the newest, or the one of ``step``. Its arrays are whole, whoever wrote them.

    Raises:
        CheckpointError: see :func:`open_checkpoint`.
    """
    return open_checkpoint(folder, step).read()


def open_checkpoint(
    folder: Path, step: int | None = None, communicator: Communicator | None = None
) -> StoredCheckpoint:
    """A verified checkpoint, to read of it what is needed: the newest, or the one of ``step``.

    All ranks together; each computes the SHA-256 of its share of the files.

    Raises:
        CheckpointError: there is none, or it is truncated, damaged, or not of this format and version. The
            message says which other checkpoint in the folder is intact, if one is.
    """
    ranks = communicator or Alone()
    steps = list_checkpoints(folder)
    if not steps:
        raise CheckpointError(f"{folder} holds no checkpoint")
    if step is None:
        step = steps[-1]
    elif step not in steps:
        raise CheckpointError(f"{folder} holds no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    fault: CheckpointError | None = None
    try:
        stored = verify(folder, step, ranks.rank, ranks.size)
    except CheckpointError as error:
        fault = error
    faults = [each for each in gather_texts(ranks, "" if fault is None else str(fault), "checkpoint") if each]
    if not faults:
        return stored
    way_out = gather_texts(ranks, _way_out(folder, step, steps) if ranks.rank == 0 else "", "checkpoint")[0]
    raise CheckpointError(f"{faults[0]}; {way_out}") from fault


def _way_out(folder: Path, step: int, steps: list[int]) -> str:
    intact = next((other for other in reversed(steps) if other != step and _is_intact(folder, other)), None)
    return "no other one is intact" if intact is None else f"step {intact} is intact: --resume --from-step {intact}"


def _is_intact(folder: Path, step: int) -> bool:
    try:
        verify(folder, step)
    except CheckpointError:
        return False
    return True


def _own(arrays: Mapping[str, Any], spread: Mapping[str, Holding], rank: int) -> dict[str, Any]:
    """What a rank writes."""
    own = {}
    for name, array in arrays.items():
        if name in spread:
            held, firsts = spread[name].held, first_replicas(spread[name].placement)[rank]
            if firsts:
                own[name] = array if len(firsts) == len(held) else to_host(array)[np.isin(held, firsts)]
        elif rank == 0:
            own[name] = array
    return own


def _writers(spread: Mapping[str, Holding], size: int) -> list[int]:
    """The ranks that have something to write."""
    firsts = [first_replicas(placement) for placement in {holding.placement for holding in spread.values()}]
    return [rank for rank in range(size) if rank == 0 or any(of_ranks[rank] for of_ranks in firsts)]


def _split(spread: Mapping[str, Holding], writers: list[int]) -> list[SplitArrays]:
    """For the JSON: arrays that are placed alike have one entry."""
    alike: dict[Any, list[str]] = {}
    for name, holding in spread.items():
        alike.setdefault(holding.placement, []).append(name)
    return [
        SplitArrays(names, [first_replicas(placement)[rank] for rank in writers], placement.to_json())
        for placement, names in alike.items()
    ]


def _described(ranks: Communicator, name: str | None, content: bytes) -> list[TensorFile]:
    """The files that the ranks have written; ``name`` is this rank's, if it has one."""
    own = "" if name is None else msgspec.json.encode(_as_saved(name, content)).decode()
    return [msgspec.json.decode(each, type=TensorFile) for each in gather_texts(ranks, own, "checkpoint") if each]


def _as_saved(name: str, content: bytes) -> TensorFile:
    return TensorFile(name, len(content), hashlib.sha256(content).hexdigest())


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


def _prune(folder: Path, step: int) -> None:
    """Delete the checkpoints that are not kept, JSON first, and all files that no checkpoint refers to.

    What a JSON that cannot be read refers to is not known, so all files of its step stay.
    """
    steps = list_checkpoints(folder)
    kept = [s for s in steps if s <= step][-_KEPT:]
    for s in steps:
        if s not in kept:
            os.remove(description_path(folder, s))
    referred, unknown = set(), set()
    for s in kept:
        description = description_path(folder, s)
        try:
            referred |= {description.name, *(each.file for each in Description.read(description).files)}
        except CheckpointError:
            unknown.add(s)
    for path in folder.iterdir():
        of = step_of(path.name)
        if of is not None and of not in unknown and path.name not in referred:
            os.remove(path)
