"""A run folder, opened again: everything that a later command needs to continue, sample or inspect a run.

runs/NAME/config.json        the model, the training and the text, as given at the start
runs/NAME/history.jsonl      one line for each optimizer step
runs/NAME/validation.json    validation losses at a few steps
runs/NAME/checkpoint-*       weights and optimizer state
runs/NAME/summary.json       the results, written at the end
runs/NAME/dense/             the run of the dense twin, where one was trained
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..models import ModelConfig, Transformer
from .checkpoints import CheckpointError, list_checkpoints, load_checkpoint
from .corpus import Corpus, bytes_needed, default_corpus, text_corpus
from .files import read_jsonl
from .loop import TrainingConfig


class RunError(ValueError):
    """A folder that is not a run, or not one that this version can read; the message says which and why."""


@dataclass(frozen=True)
class Run:
    """A run as its ``config.json`` describes it. ``text`` is empty for the built-in corpus."""

    folder: Path
    model_config: ModelConfig
    training_config: TrainingConfig
    text: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read the configuration of a run folder.

        Raises:
            RunError: there is no run, or its configuration is damaged or holds impossible values.
        """
        path = folder / "config.json"
        try:
            config = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(f"{folder} is not a run: there is no {path}") from error
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise RunError(f"{path} is truncated or damaged: {error}") from error
        try:
            return cls(
                folder,
                ModelConfig.from_json(config["model"]),
                TrainingConfig.from_json(config["training"]),
                tuple(config["text"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged: model, training or text is missing or malformed") from error
        except ValueError as error:
            raise RunError(f"{path}: {error}") from error

    def corpus(self) -> Corpus:
        """The text of the run, read anew. CorpusError if it is no longer there."""
        return read_text(self.text, self.model_config.context)

    def model(self, step: int | None = None) -> tuple[Transformer, int]:
        """The model of the newest checkpoint, or of that of ``step``; and its completed steps.

        Raises:
            CheckpointError: there is no such checkpoint, or it is not intact or of another model.
        """
        checkpoint = load_checkpoint(self.folder, step)
        model = Transformer(self.model_config, rng=np.random.default_rng(self.training_config.seed))
        prefix = "model."
        weights = {name.removeprefix(prefix): a for name, a in checkpoint.arrays.items() if name.startswith(prefix)}
        try:
            model.load_state_dict(weights)
        except ValueError as error:
            raise CheckpointError(
                f"step {checkpoint.step} of {self.folder} is of another model than config.json: {error}"
            ) from error
        return model, checkpoint.step

    def newest_step(self) -> int | None:
        """The completed steps of the newest checkpoint; None if there is none yet."""
        steps = list_checkpoints(self.folder)
        return steps[-1] if steps else None

    def history(self) -> list[dict[str, Any]]:
        """One record a step, see :class:`moe_numpy.training.loop.StepRecord`; empty before the first."""
        path = self.folder / "history.jsonl"
        return read_jsonl(path) if path.exists() else []

    def validation(self) -> dict[int, float]:
        """Validation loss in nats per byte by step; empty if none was measured."""
        path = self.folder / "validation.json"
        if not path.exists():
            return {}
        return dict(json.loads(path.read_bytes()))

    def summary(self) -> Mapping[str, Any] | None:
        """The results; None for a run that has not ended."""
        path = self.folder / "summary.json"
        return json.loads(path.read_bytes()) if path.exists() else None


def read_text(paths: tuple[str, ...], context: int) -> Corpus:
    """The built-in corpus, or the given files and folders, each long enough for a window of ``context``.

    Raises:
        ValueError: there is too little text in a domain (CorpusError for the user's own).
    """
    corpus = text_corpus(paths, min_bytes=bytes_needed(context)) if paths else default_corpus()
    corpus.validation_windows(context, limit=1)  # refuses a domain that cannot fill one
    return corpus


def next_free(folder: Path) -> Path:
    """The folder itself, or NAME-2, NAME-3 ... if something has that name already."""
    numbered = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(path for path in itertools.chain([folder], numbered) if not path.exists())
