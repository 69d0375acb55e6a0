"""The run folder. Every file in it is written and read here, the arrays and figures through helpers.

runs/NAME/config.json        the model, the training and the text, as given at the start
runs/NAME/history.jsonl      one line per optimizer step
runs/NAME/validation.json    validation losses at a few steps
runs/NAME/checkpoint-*       weights and optimizer state
runs/NAME/summary.json       the results, written at the end
runs/NAME/*.png              figures
runs/NAME/dense/             the run of the dense twin, if one was trained
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..models import ModelConfig, Transformer
from .checkpoints import Checkpoint, CheckpointError, list_checkpoints, load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .corpus import Corpus
from .files import append_jsonl, read_jsonl, truncate_history, write_json_atomically
from .optimizers import AdamW
from .user_text import load_corpus

_CONFIG, _SUMMARY, _DENSE_TWIN = "config.json", "summary.json", "dense"
_HISTORY, _VALIDATION = "history.jsonl", "validation.json"
_MODEL, _OPTIMIZER = "model.", "optimizer."  # what the names of a checkpoint's arrays begin with


class RunError(ValueError):
    """A folder that is not a run, or not one that this version can read; the message says which and why."""


@dataclass(frozen=True)
class Run:
    """A run as its ``config.json`` describes it. ``text`` is empty for the built-in text."""

    folder: Path
    model_config: ModelConfig
    training_config: TrainingConfig
    text: tuple[str, ...]

    @classmethod
    def start(cls, folder: Path, model: ModelConfig, training: TrainingConfig, text: Sequence[str] = ()) -> "Run":
        """Create a run folder with its configuration.

        Raises:
            FileExistsError: the folder holds a run already.
        """
        if (folder / _CONFIG).exists():
            raise FileExistsError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        config = {"model": model.to_json(), "training": asdict(training), "text": list(text)}
        write_json_atomically(folder / _CONFIG, config)
        return cls(folder, model, training, tuple(text))

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read the configuration of a run folder.

        Raises:
            RunError: there is no run, or its configuration is damaged or holds impossible values.
        """
        path = folder / _CONFIG
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
        """The text of the run, read again. CorpusError if it is no longer there."""
        return load_corpus(self.text, self.model_config.context)

    def save(self, step: int, model: Transformer, optimizer: AdamW, fingerprint: str) -> None:
        """Write the checkpoint of ``step`` completed steps on the text of this fingerprint."""
        arrays = {_MODEL + name: array for name, array in model.state_dict().items()}
        arrays |= {_OPTIMIZER + name: array for name, array in optimizer.state_dict().items()}
        save_checkpoint(self.folder, step, arrays, {"text": fingerprint})

    def restore(self, model: Transformer, optimizer: AdamW, fingerprint: str, step: int | None = None) -> int:
        """Load the newest checkpoint, or the one of ``step``, and discard what was written after it.

        Returns:
            The completed steps.

        Raises:
            ValueError: the checkpoint is of another model or of other text, or cannot be trusted (CheckpointError).
        """
        checkpoint = load_checkpoint(self.folder, step)
        if checkpoint.meta.get("text") != fingerprint:
            raise ValueError(
                f"the text has changed since {self.folder} began, or is that of another Python version; "
                "a run continues only on the bytes that it began with"
            )
        self._load_weights(model, checkpoint)
        optimizer.load_state_dict(_below(_OPTIMIZER, checkpoint.arrays))
        self.rewind(checkpoint.step)
        return checkpoint.step

    def rewind(self, step: int) -> None:
        """Discard the history and the validation losses after ``step``, and the summary unless it is the last step."""
        truncate_history(self.folder / _HISTORY, step)
        self.write_validation({at: loss for at, loss in self.validation().items() if at <= step})
        if step < self.training_config.steps:
            (self.folder / _SUMMARY).unlink(missing_ok=True)

    def model(self, step: int | None = None) -> tuple[Transformer, int]:
        """The model of the newest checkpoint, or of the one of ``step``; and its completed steps.

        Raises:
            CheckpointError: there is no such checkpoint, or it is not intact or of another model.
        """
        checkpoint = load_checkpoint(self.folder, step)
        model = Transformer(self.model_config, rng=np.random.default_rng(self.training_config.seed))
        self._load_weights(model, checkpoint)
        return model, checkpoint.step

    def newest_step(self) -> int | None:
        """The completed steps of the newest checkpoint; None if there is none yet."""
        steps = list_checkpoints(self.folder)
        return steps[-1] if steps else None

    def history(self) -> list[dict[str, Any]]:
        """One record per step, see :class:`moe_numpy.training.loop.StepRecord`; empty before the first."""
        path = self.folder / _HISTORY
        return read_jsonl(path) if path.exists() else []

    def append_history(self, record: dict[str, Any]) -> None:
        """Add the record of one step."""
        append_jsonl(self.folder / _HISTORY, record)

    def validation(self) -> dict[int, float]:
        """Validation loss in nats per byte by step; empty if none was measured."""
        return dict(self._read(_VALIDATION) or [])

    def write_validation(self, losses: Mapping[int, float]) -> None:
        """Replace the validation losses."""
        write_json_atomically(self.folder / _VALIDATION, sorted(losses.items()))

    def summary(self) -> dict[str, Any] | None:
        """The results; None for a run that has not ended."""
        return self._read(_SUMMARY)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace the results."""
        write_json_atomically(self.folder / _SUMMARY, summary)

    def figure(self, name: str) -> Path:
        """Where the figure of this name belongs."""
        return self.folder / f"{name}.png"

    def dense_twin(self) -> "Run | None":
        """The run of the dense twin; None if none was started."""
        folder = self.folder / _DENSE_TWIN
        return Run.open(folder) if folder.is_dir() else None

    def start_dense_twin(self) -> "Run":
        """Create the run of the dense twin, with the same training and text."""
        folder = self.folder / _DENSE_TWIN
        return Run.start(folder, self.model_config.dense_twin(), self.training_config, self.text)

    def _read(self, name: str) -> Any:
        path = self.folder / name
        return json.loads(path.read_bytes()) if path.exists() else None

    def _load_weights(self, model: Transformer, checkpoint: Checkpoint) -> None:
        try:
            model.load_state_dict(_below(_MODEL, checkpoint.arrays))
        except ValueError as error:
            raise CheckpointError(
                f"step {checkpoint.step} of {self.folder} is of another model than {_CONFIG}: {error}"
            ) from error


def next_free(folder: Path) -> Path:
    """The folder itself, or NAME-2, NAME-3 ... if something has that name already."""
    numbered = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(path for path in itertools.chain([folder], numbered) if not path.exists())


def _below(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
