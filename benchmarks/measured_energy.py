"""Joules per token of our decoder, counted by the processor while it decodes held-out text."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from moe_numpy.inference import Decoder

from .held_out import open_or_train
from .rapl import Meter


def measure(
    folder: Path, batches: Sequence[int], seconds: float, meter: Meter, console: Console
) -> Iterator[dict[str, Any]]:
    """One row per batch: texts of half the context are continued to its end, again and again.

    What the machine draws without this is measured first, asleep, and given beside the whole.
    """
    model, corpus = open_or_train(folder, console)
    decoder, windows = Decoder(model), corpus.validation_windows(model.context)
    idle, slept = _counted(meter, lambda: time.sleep(seconds))
    for batch in batches:
        console.print(f"measuring {folder}, batch {batch}", soft_wrap=True)
        texts = windows.tokens[np.arange(batch) % len(windows.tokens)]
        half = texts.shape[1] // 2
        begun = [decoder.new_sequence() for _ in texts]
        decoder.read(*zip(begun, texts[:, :half], strict=True))
        decoded = 0

        def run(begun: Any = begun, texts: Any = texts, half: int = half) -> None:
            nonlocal decoded
            end = time.perf_counter() + seconds
            while not decoded or time.perf_counter() < end:
                grown = [sequence.copy() for sequence in begun]
                for i in range(half, texts.shape[1]):
                    decoder.read(*((sequence, row[i : i + 1]) for sequence, row in zip(grown, texts, strict=True)))
                decoded += texts.shape[0] * (texts.shape[1] - half)

        joules, taken = _counted(meter, run)
        yield {
            "run": str(folder),
            "batch": batch,
            "joules": joules / decoded,
            "joules_above_idle": (joules - idle / slept * taken) / decoded,
            "tokens_per_s": decoded / taken,
        }


def _counted(meter: Meter, task: Any) -> tuple[float, float]:
    """Joules and seconds of a task."""
    before, start = meter.read(), time.perf_counter()
    task()
    return meter.joules(before, meter.read()), time.perf_counter() - start
