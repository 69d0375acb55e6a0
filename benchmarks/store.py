"""Decoding with experts on the disk against its bound: python -m benchmarks.store [--layers 12] [--memory 300MB]

A model with random weights is written to a temporary folder (1.4 GB with 12 layers) and decodes one token at a time.

    bound = seconds with all experts in memory + bytes missed / cold bandwidth
    share = bound / seconds with the given memory

The same requests are then made to a store alone, without computing: its share is that of the cold bandwidth.

Cold means that the files were dropped from the page cache just before (posix_fadvise). The bandwidth is that of whole
experts in random order on four threads, without any model. Reading may overlap computing, so a share can exceed 1.
"""

import gc
import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from moe_numpy.commands.sizes import given_size
from moe_numpy.inference import Decoder, ExpertStore, total
from moe_numpy.inference.open_file import OpenFile
from moe_numpy.inference.slot_store import aligned
from moe_numpy.models import Transformer
from moe_numpy.moe import MoE
from moe_numpy.pretrained import from_pretrained

from .random_model import MODELS, write_random_model

_THREADS = 4
_READ = 5e8  # bytes to measure the bandwidth with, at most
SETTINGS = MODELS["qwen3-moe-701m"]


def main(
    layers: Annotated[int, typer.Option(min=1, help="Of the model: 105 MB each.")] = 12,
    memory: Annotated[list[str] | None, typer.Option(help="For experts; repeatable.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="To decode.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="The best of which counts.")] = 3,
    folder: Annotated[Path | None, typer.Option(help="For the temporary model.")] = None,
) -> None:
    """Print the bandwidths, then one row per amount of memory, as JSON."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_random_model(Path(place), SETTINGS | {"num_hidden_layers": layers})
        for size in memory or ["300MB"]:
            print(json.dumps(measured(Path(place), given_size(size), tokens, rounds)))


def measured(folder: Path, memory: int, tokens: int, rounds: int) -> dict[str, Any]:
    """One row: all measurements in turn, the best of each."""
    ids = np.random.default_rng(1).integers(0, SETTINGS["vocab_size"], tokens)
    expected = decoded(from_pretrained(folder), ids)[0]
    compute = seconds = alone = math.inf
    speed = {"direct": 0.0, "plain": 0.0}
    same = True
    for _ in range(rounds):
        compute = min(compute, decoded(from_pretrained(folder), ids)[2])
        gc.collect()  # pages of files that are mapped stay in memory
        limited = from_pretrained(folder, memory=memory)
        drop(folder)
        logits, requests, taken = decoded(limited, ids)
        same &= np.array_equal(logits, expected)
        if taken < seconds:
            seconds, counts = taken, total(store_of(limited).counts.values())
        for kind in speed:
            speed[kind] = max(speed[kind], cold_bandwidth(store_of(limited), folder, direct=kind == "direct"))
        del limited
        alone = min(alone, reading(store_of(from_pretrained(folder, memory=memory)), folder, requests))
    read = counts.bytes_read / (max(speed.values()) * 1e9)
    return {
        "memory": memory,
        "tokens": tokens,
        "same_logits": bool(same),
        "hit_rate": round(counts.hit_rate, 3),
        "missed_mb": round(counts.bytes_read / 1e6, 1),
        "cold_gb_per_s": {kind: round(best, 2) for kind, best in speed.items()},
        "compute_s": round(compute, 3),
        "waited_s": round(counts.seconds_waited, 3),
        "seconds": round(seconds, 3),
        "bound_s": round(compute + read, 3),
        "share": round((compute + read) / seconds, 3),
        "tokens_per_s": round(tokens / seconds, 2),
        "reads_alone_s": round(alone, 3),
        "reads_alone_share": round(read / alone, 3),
    }


def reading(store: ExpertStore, folder: Path, requests: Sequence[tuple[int, list[int]]]) -> float:
    """The seconds that a store takes for requests, without computing."""
    drop(folder)
    start = time.perf_counter()
    for layer, experts in requests:
        store.get(layer, experts)
    return time.perf_counter() - start


def decoded(model: Transformer, ids: np.ndarray) -> tuple[np.ndarray, list[tuple[int, list[int]]], float]:
    """The logits of tokens that are read one at a time, the requests for experts, and the seconds it took."""
    decoder, store, requests = Decoder(model), store_of(model), []
    get = store.get

    def noted(layer: int, experts: Sequence[int]) -> Any:
        requests.append((layer, list(experts)))
        return get(layer, experts)

    store.get = noted  # type: ignore[method-assign]
    text, logits = decoder.new_sequence(), []
    start = time.perf_counter()
    for token in ids:
        logits.append(decoder.read((text, np.array([token])))[0])
    taken = time.perf_counter() - start
    del store.get
    return np.stack(logits), requests, taken


def cold_bandwidth(store: ExpertStore, folder: Path, *, direct: bool) -> float:
    """GB/s of reading whole experts in random order; the best of three, each with other experts."""
    keys = [(layer, e) for layer, count in store.experts.items() for e in range(count)]
    np.random.default_rng(0).shuffle(keys)
    count = min(len(keys) // 3, int(_READ / store.slot_bytes))
    files = {run.file: OpenFile(run.file, run.end, direct=direct) for key in keys for run in store.layouts[key].runs}
    buffers = [memoryview(aligned(store.slot_bytes)) for _ in range(_THREADS)]

    def read(thread: int, mine: list[tuple[int, int]]) -> int:
        for layer, e in mine:
            for run in store.layouts[layer, e].runs:
                files[run.file].read(run.start, run.end - run.start, buffers[thread][run.at : run.at + run.room])
        return sum(store.nbytes(layer, e) for layer, e in mine)

    speeds = []
    for start in range(0, 3 * count, count):
        drop(folder)
        chosen = [(int(layer), int(e)) for layer, e in keys[start : start + count]]
        began = time.perf_counter()
        with ThreadPoolExecutor(_THREADS) as pool:
            done = sum(pool.map(read, range(_THREADS), [chosen[i::_THREADS] for i in range(_THREADS)]))
        speeds.append(done / (time.perf_counter() - began) / 1e9)
    return max(speeds)


def drop(folder: Path) -> None:
    """Remove the files from the page cache."""
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def store_of(model: Transformer) -> ExpertStore:
    """The store of all layers."""
    sparse = next(layer.feed_forward for layer in model.layers if isinstance(layer.feed_forward, MoE))
    store: ExpertStore = sparse.experts.reader.store
    return store


if __name__ == "__main__":
    typer.run(main)
