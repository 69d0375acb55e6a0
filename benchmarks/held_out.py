"""A model trained here and the text that it was not trained on, read by a decoder: losses by window."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from moe_numpy.commands.progress import training_progress
from moe_numpy.inference import Decoder
from moe_numpy.models import Transformer
from moe_numpy.ops import LogSoftmax
from moe_numpy.training import Corpus, Run, Trainer, default_corpus, presets
from moe_numpy.training.corpus import Windows
from moe_numpy.typing import Float

_ROWS = 2048  # tokens read at once


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and its standard error: the pairs are independent, not the two of a pair."""

    mean: float
    error: float

    @classmethod
    def between(cls, losses: Float[np.ndarray, " B"], reference: Float[np.ndarray, " B"]) -> "Difference":
        """Of the same windows."""
        apart = losses - reference
        return cls(float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(len(apart))) if len(apart) > 1 else 0.0)


def open_or_train(folder: Path | None, console: Console) -> tuple[Transformer, Corpus]:
    """The model and text of a run; without one, those of ``python -m moe_numpy demo``, trained now.

    Raises:
        ValueError: it is no run, or its text has changed.
    """
    if folder is not None:
        run = Run.open(folder)
        checkpoint, corpus = run.verified(), run.corpus()
        run.require_text(corpus, checkpoint)
        return run.model_of(checkpoint).eval(), corpus  # type: ignore[return-value]
    config, training = presets.demo()
    trainer = Trainer(config, training, default_corpus())
    with training_progress(console, "MoE", trainer) as show:
        if not trainer.train(show):
            raise KeyboardInterrupt
    return trainer.model.eval(), trainer.corpus  # type: ignore[return-value]


def window_losses(decoder: Decoder, windows: Windows, on_window: Callable[[], None]) -> Float[np.ndarray, " B"]:
    """The loss of each window in nats per byte of text. ``on_window`` is called after each."""
    count, length = windows.tokens.shape
    at_once, losses = max(_ROWS // length, 1), np.empty(count)
    for start in range(0, count, at_once):
        texts = windows.tokens[start : start + at_once]
        logits = decoder.read(*((decoder.new_sequence(), tokens) for tokens in texts), every=True)
        log_p = LogSoftmax.compute(logits)
        nats = -np.take_along_axis(log_p, windows.targets[start : start + at_once].reshape(-1, 1), axis=1)
        losses[start : start + at_once] = nats.reshape(texts.shape).mean(axis=1, dtype=np.float64)
        for _ in texts:
            on_window()
    return losses / windows.bytes_per_token
