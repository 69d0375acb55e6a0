"""The run folder. Every file in it is written and read here, the arrays and figures through helpers.

runs/NAME/config.json        the model, the training and the text, as given at the start; the versions used
runs/NAME/history.jsonl      one line per optimizer step
runs/NAME/validation.json    validation losses at a few steps
runs/NAME/ledger.json        of several ranks: the bytes that each has sent to each, and what there was to send
runs/NAME/checkpoint-*       weights and optimizer state
runs/NAME/summary.json       the results, written at the end
runs/NAME/*.png              figures
runs/NAME/dense/             the run of the dense twin, if one was trained
runs/NAME/tokenizer/         of a run that began with a published model: its files about text, and its config.json
"""

import contextlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from ..files import (
    TEMPORARY_SUFFIX,
    append_jsonl,
    read_json,
    read_jsonl,
    sync,
    truncate_history,
    with_checksum,
    write_atomically,
    write_json_atomically,
)
from ..models import ModelConfig, Transformer
from ..models.text import ByteTokenizer, Tokenizer
from ..parallel import Holding
from ..parallel.collectives import failing_together
from ..pretrained import PretrainedError, PublishedConfig, PublishedTokenizer
from ..pretrained.text_files import TEXT_FILES, text_files
from .checkpoint_files import CheckpointError
from .checkpoints import list_checkpoints, open_checkpoint, save_checkpoint
from .config import TrainingConfig
from .corpus import Corpus
from .memory import least_parameters
from .model_settings import ModelSettings, plain_settings, read_model_settings
from .optimizers import AdamW
from .pictures import digits
from .ranks import Ranks
from .record import StepRecord
from .run_ledger import RunLedger
from .run_model import MODEL, below, empty_model
from .stored_checkpoint import Checkpoint, StoredCheckpoint
from .user_text import load_corpus
from .versions import versions

_CONFIG, _SUMMARY, _DENSE_TWIN = "config.json", "summary.json", "dense"
_HISTORY, _VALIDATION, _TOKENIZER = "history.jsonl", "validation.json", "tokenizer"
_LEDGER = "ledger.json"
_OPTIMIZER = "optimizer."  # what the names of its arrays in a checkpoint begin with


class RunError(ValueError):
    """A folder that is not a run, or not one that this version can read; the message says which and why."""


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``config.json``."""

    model: dict[str, Any]
    training: dict[str, Any]
    text: tuple[str, ...]
    steps_before: tuple[int, ...] = ()
    versions: dict[str, str] = {}
    source: str | None = msgspec.field(default=None, name="from")
    groups: dict[str, tuple[str, ...]] = {}


class _Validation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``validation.json``; of earlier versions, the losses alone."""

    losses: list[tuple[int, float]]
    checksum: int


class _Meta(msgspec.Struct, frozen=True):
    """What a checkpoint says of its run; those of earlier versions say less."""

    text: str | None = None
    model: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    frozen: list[str] = []
    ledger: RunLedger | None = None


@dataclass(frozen=True)
class Run:
    """A run as its ``config.json`` describes it.

    Attributes:
        folder: where it is.
        model_config: the model.
        training_config: how it is trained.
        text: the files and folders; empty for the built-in text.
        steps_before: the numbers of steps that it was to have before :meth:`with_steps`.
        versions: those that it began with.
        source: the folder of the run or the published model whose weights it began with; None for random weights.
        groups: experts that were added together, by the name of their domain, as LAYER:EXPERTS.
    """

    folder: Path
    model_config: ModelSettings
    training_config: TrainingConfig
    text: tuple[str, ...]
    steps_before: tuple[int, ...] = ()
    versions: dict[str, str] = field(default_factory=versions, compare=False)
    source: str | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        folder: Path,
        model: ModelSettings,
        training: TrainingConfig,
        text: Sequence[str] = (),
        source: str | None = None,
        groups: Mapping[str, tuple[str, ...]] | None = None,
    ) -> "Run":
        """Create a run folder with its configuration, and a copy of the tokenizer of a published model.

        Raises:
            FileExistsError: the folder holds a run already, or a tokenizer.
            ValueError: a path is not UTF-8, a file of the published model cannot be read, or ``source`` is not given
                for a published one.
        """
        if isinstance(model, PublishedConfig) and source is None:
            raise ValueError("source is needed for published models")
        if (folder / _CONFIG).exists():
            raise FileExistsError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
        for path in (*text, source or "", model.recipe if isinstance(model, ModelConfig) else ""):
            try:
                path.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{path!a} is not UTF-8, and config.json could not name it; rename it") from error
        run = cls(folder, model, training, tuple(text), source=source, groups=groups or {})
        if run.is_published and run.tokenizer_folder.exists():
            raise FileExistsError(f"{run.tokenizer_folder} is in the way; delete it, or choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if isinstance(model, PublishedConfig) and source is not None:
                run._copy_tokenizer(Path(source), model)
            run.write_config()
        except BaseException:  # a full disk, a signal
            run.discard_if_untrained()
            raise
        return run

    def _copy_tokenizer(self, source: Path, model: PublishedConfig) -> None:
        files = text_files(source)
        self.tokenizer_folder.mkdir()
        write_atomically({self.tokenizer_folder / name: content for name, content in files.items()})
        write_json_atomically(self.tokenizer_folder / _CONFIG, model.values)  # it may say which ids end a text

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read the configuration of a run folder.

        Raises:
            RunError: there is no run, or its configuration is damaged or holds impossible values.
        """
        path = folder / _CONFIG
        try:
            config = read_json(path, _Config)
        except (FileNotFoundError, NotADirectoryError) as error:
            if folder.exists() and not folder.is_dir():
                raise RunError(f"{folder} is a file; a run or a published model is a folder") from error
            raise RunError(f"{folder} is not a run: there is no {path}") from error
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise RunError(str(error)) from error
        try:
            model, training = read_model_settings(config.model, path), TrainingConfig.from_json(config.training)
        except msgspec.ValidationError as error:
            raise RunError(f"{path} is damaged, an entry is missing or malformed: {error}") from error
        except PretrainedError as error:  # which names the file
            raise RunError(str(error)) from error
        except ValueError as error:
            raise RunError(f"{path}: {error}") from error
        if isinstance(model, PublishedConfig) and config.source is None:
            raise RunError(f'{path} is damaged: a published model comes with "from", where it began')
        rest = config.text, config.steps_before, config.versions, config.source, config.groups
        return cls(folder, model, training, *rest)

    def with_steps(self, steps: int) -> "Run":
        """The same run with another number of steps in all; in its folder after :meth:`write_config`.

        The learning rate then follows the schedule of the new number.
        """
        if steps == self.training_config.steps:
            return self
        training = replace(self.training_config, steps=steps)
        return replace(self, training_config=training, steps_before=(*self.steps_before, self.training_config.steps))

    def write_config(self) -> None:
        """Replace the configuration in the folder."""
        settings = {"model": self.model_config.to_json(), "training": self.training_config.to_json()}
        rest = {"text": self.text, "steps_before": self.steps_before, "versions": self.versions}
        began = {} if self.source is None else {"from": self.source}
        named = {"groups": self.groups} if self.groups else {}
        write_json_atomically(self.folder / _CONFIG, settings | rest | began | named)

    @property
    def is_published(self) -> bool:
        """Whether its model began as a published one, with a tokenizer of its own; the others read bytes."""
        return isinstance(self.model_config, PublishedConfig)

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer of a published model is, with its chat template."""
        return self.folder / _TOKENIZER

    def tokenizer(self) -> Tokenizer:
        """That of its text: bytes, or the published one. PretrainedError if its files are missing or damaged."""
        return PublishedTokenizer.open(self.tokenizer_folder) if self.is_published else ByteTokenizer()

    def corpus(self) -> Corpus:
        """The text of the run, read again, and its pictures. CorpusError or PicturesError if they are not there."""
        tokenizer = self.tokenizer()
        encode = tokenizer.encode_plain if isinstance(tokenizer, PublishedTokenizer) else None
        pictures = digits() if self.training_config.image_batch_size else None
        return load_corpus(self.text, self.model_config.context, encode, pictures)

    def save(self, step: int, model: Transformer, optimizer: AdamW, fingerprint: str, ranks: Ranks) -> None:
        """Write the checkpoint of ``step`` completed steps on the text of this fingerprint; all ranks together.

        The history reaches the disk first: no checkpoint is ahead of it.
        """
        arrays = {MODEL + name: array for name, array in model.state_dict().items()}
        arrays |= {_OPTIMIZER + name: array for name, array in optimizer.state_dict().items()}
        with failing_together(ranks.communicator, "checkpoint"):
            if ranks.is_first and (self.folder / _HISTORY).exists():
                sync(self.folder / _HISTORY)
        settings = {"model": self.model_config.to_json(), "training": self.training_config.to_json()}
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        meta = {"text": fingerprint, "versions": versions(), "frozen": frozen} | settings
        ledger = ranks.ledger(step)
        if ledger is not None:
            meta["ledger"] = ledger.to_json()
        save_checkpoint(self.folder, step, arrays, meta, ranks.communicator, _spread(arrays, ranks))
        if ranks.is_first:
            self.write_ledger(ledger)

    def verified(self, step: int | None = None) -> Checkpoint:
        """The newest checkpoint, or the one of ``step``; errors as of :meth:`stored`."""
        return self.stored(step).read()

    def stored(self, step: int | None = None, ranks: Ranks | None = None) -> StoredCheckpoint:
        """The same, of which nothing is read yet; all ranks together.

        Raises:
            CheckpointError: there is no such checkpoint, or it is not intact, or not of the configuration in
                ``config.json``.
        """
        stored = open_checkpoint(self.folder, step, None if ranks is None else ranks.communicator)
        differences = self._differences(stored)
        if differences:
            raise CheckpointError(
                f"step {stored.description.step} of {self.folder} is of another model than {_CONFIG}, or of another "
                f"training: {', '.join(differences)}"
            )
        return stored

    def require_text(self, corpus: Corpus, checkpoint: Checkpoint) -> None:
        """ValueError unless a checkpoint was trained on this text: its validation text could be training text."""
        if msgspec.convert(checkpoint.meta, _Meta).text not in (None, corpus.fingerprint):
            raise ValueError(
                f"the text has changed since {self.folder} began, or is that of another Python version; "
                "a run continues only on the text that it began with"
            )

    def restore(
        self, model: Transformer, optimizer: AdamW, corpus: Corpus, step: int | None = None, ranks: Ranks | None = None
    ) -> int:
        """Load the newest checkpoint, or the one of ``step``, and discard what was written after it.

        Parameters that were frozen stay frozen (``requires_grad=False``), beside those that already are.

        Returns:
            The completed steps.

        Raises:
            ValueError: the checkpoint is of another model or of other text, cannot be trusted (CheckpointError), or
                the history does not reach it (RunError).
        """
        ranks = Ranks() if ranks is None else ranks
        stored = self.stored(step, ranks)
        spread = _spread(stored.shapes, ranks)
        checkpoint = stored.read({name: holding.held for name, holding in spread.items()})
        self.require_text(corpus, checkpoint)
        last = len(self.history())
        if last < checkpoint.step:
            raise RunError(f"{self.folder / _HISTORY} ends after step {last}, before the checkpoint {checkpoint.step}")
        self._load_weights(model, checkpoint)
        frozen = msgspec.convert(checkpoint.meta, _Meta).frozen
        for name, parameter in model.named_parameters():
            parameter.requires_grad &= name not in frozen
        optimizer.load_state_dict(below(_OPTIMIZER, checkpoint.arrays))
        ledger = msgspec.convert(checkpoint.meta, _Meta).ledger
        ranks.continue_ledger(ledger, checkpoint.step)
        ranks.first_of(0)  # all have read what the first now shortens
        if ranks.is_first:
            self.rewind(checkpoint.step)
            self.write_ledger(ledger)
        ranks.first_of(0)
        return checkpoint.step

    def rewind(self, step: int) -> None:
        """Discard the history and the validation losses after ``step``, and the summary unless it is the last step."""
        kept = {at: loss for at, loss in self.validation().items() if at <= step}  # read before anything is changed
        truncate_history(self.folder / _HISTORY, step)
        self.write_validation(kept)
        if step < self.training_config.steps:
            (self.folder / _SUMMARY).unlink(missing_ok=True)

    def model(self, step: int | None = None) -> tuple[Transformer, int]:
        """The model of the newest checkpoint, or of the one of ``step``; and its completed steps.

        Raises:
            CheckpointError: there is no such checkpoint, or it is not intact or of another configuration.
        """
        checkpoint = self.verified(step)
        return self.model_of(checkpoint), checkpoint.step

    def model_of(self, checkpoint: Checkpoint) -> Transformer:
        """The model of a checkpoint. CheckpointError if it is of another model.

        A published one has the context that it was published with, however short the windows of training are.
        """
        config = self.model_config
        model = empty_model(replace(config, window=None) if isinstance(config, PublishedConfig) else config)
        self._load_weights(model, checkpoint)
        return model

    def newest_step(self) -> int | None:
        """The completed steps of the newest checkpoint; None if there is none yet."""
        steps = list_checkpoints(self.folder)
        return steps[-1] if steps else None

    def history(self) -> list[dict[str, Any]]:
        """One record per step, see :class:`moe_numpy.training.record.StepRecord`; empty before the first.

        Raises:
            RunError: a record is damaged, of another model, or not of the step that its line should have.
            OSError: it cannot be read.
        """
        path = self.folder / _HISTORY
        if not path.exists():
            return []
        records = self._intact(read_jsonl, path, StepRecord)
        shape = [self.model_config.num_routes] * len(self.model_config.routed_layers)
        for number, record in enumerate(records, start=1):
            if record.step != number:
                raise RunError(f"{path}, line {number}, is damaged: it should be of step {number}, not {record.step}")
            if [len(load) for load in record.expert_load] != shape:
                raise RunError(f"{path}, line {number}, is damaged: expert_load should have rows of {shape} numbers")
        return [vars(record) for record in records]

    def append_history(self, record: dict[str, Any]) -> None:
        """Add the record of one step."""
        append_jsonl(self.folder / _HISTORY, with_checksum(record))

    def validation(self) -> dict[int, float]:
        """Validation loss in nats per token by step; empty if none was measured. RunError if the file is damaged."""
        path = self.folder / _VALIDATION
        if not path.exists():
            return {}
        content = self._intact(read_json, path, _Validation | list[tuple[int, float]])
        losses = content.losses if isinstance(content, _Validation) else content
        at = [step for step, _ in losses]
        if at != sorted(set(at) & set(range(self.training_config.steps + 1))):
            raise RunError(
                f"{path} is damaged: its steps should ascend from 0 to {self.training_config.steps}, not {at}"
            )
        return dict(losses)

    def write_validation(self, losses: Mapping[int, float]) -> None:
        """Replace the validation losses."""
        write_json_atomically(self.folder / _VALIDATION, with_checksum({"losses": sorted(losses.items())}))

    def ledger(self) -> RunLedger | None:
        """What its ranks have sent; None of a run of one rank. RunError if the file is damaged."""
        path = self.folder / _LEDGER
        return self._intact(read_json, path, RunLedger) if path.exists() else None

    def write_ledger(self, ledger: RunLedger | None) -> None:
        """Replace the ledger; with None there is none."""
        if ledger is None:
            (self.folder / _LEDGER).unlink(missing_ok=True)
        else:
            write_json_atomically(self.folder / _LEDGER, ledger.to_json())

    def summary(self) -> dict[str, Any] | None:
        """The results; None for a run that has not ended. RunError if the file is damaged."""
        path = self.folder / _SUMMARY
        return self._intact(read_json, path, dict[str, Any]) if path.exists() else None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace the results."""
        write_json_atomically(self.folder / _SUMMARY, summary)

    def dense_twin(self) -> "Run | None":
        """The run of the dense twin; None if none was started."""
        folder = self.folder / _DENSE_TWIN
        return Run.open(folder) if folder.is_dir() else None

    def start_dense_twin(self) -> "Run":
        """Create the run of the dense twin, with the same training and text; of a model that was made here."""
        folder = self.folder / _DENSE_TWIN
        assert isinstance(self.model_config, ModelConfig)
        return Run.start(folder, self.model_config.dense_twin(), self.training_config, self.text)

    def discard_if_untrained(self) -> None:
        """Remove the files of a run without a checkpoint, and nothing that is not this run's."""
        if self.newest_step() is None:
            for name in (_LEDGER, _VALIDATION, _HISTORY, _CONFIG):
                (self.folder / name).unlink(missing_ok=True)
            if self.is_published and self.tokenizer_folder.is_dir():
                for name in (*TEXT_FILES, _CONFIG):
                    (self.tokenizer_folder / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # something else is in it
                    self.tokenizer_folder.rmdir()

    def remove_temporaries(self) -> None:
        """Delete what a crash left half-written. Only for the one process that has locked the folder."""
        for path in self.folder.glob(f"*{TEMPORARY_SUFFIX}"):
            name = path.name.removesuffix(TEMPORARY_SUFFIX)
            if name in (_CONFIG, _HISTORY, _VALIDATION, _SUMMARY, _LEDGER) or name.startswith("checkpoint-"):
                path.unlink(missing_ok=True)

    def _differences(self, checkpoint: StoredCheckpoint) -> list[str]:
        """How the configuration differs from the one that a checkpoint was saved with, or from its size."""
        try:
            meta = msgspec.convert(checkpoint.description.meta, _Meta)
            pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
            if meta.model is not None:
                theirs = read_model_settings(meta.model, self.folder / _CONFIG)
                pairs.append((plain_settings(self.model_config), plain_settings(theirs)))
            if meta.training is not None:
                saved = TrainingConfig.from_json(meta.training)
                steps = self.training_config.steps if saved.steps in self.steps_before else saved.steps
                saved = replace(saved, steps=steps, device=self.training_config.device)
                pairs.append((asdict(self.training_config), asdict(saved)))
        except ValueError as error:
            return [str(error)]
        found = [
            f"{name} {ours.get(name)!r:.200} (the checkpoint has {theirs.get(name)!r:.200})"
            for ours, theirs in pairs
            for name in ours | theirs
            if ours.get(name) != theirs.get(name)
        ]
        stored = sum(math.prod(shape) for shape in below(MODEL, checkpoint.shapes).values())
        if not found and least_parameters(self.model_config) > 4 * stored:  # tied parameters are stored once
            found = [f"at least {least_parameters(self.model_config):,} parameters (the checkpoint has {stored:,})"]
        return found

    def _intact(self, read: Any, path: Path, type: Any) -> Any:
        try:
            return read(path, type)
        except ValueError as error:
            raise RunError(str(error)) from error

    def _load_weights(self, model: Transformer, checkpoint: Checkpoint) -> None:
        try:
            model.load_state_dict(below(MODEL, checkpoint.arrays))
        except ValueError as error:
            raise CheckpointError(
                f"step {checkpoint.step} of {self.folder} is of another model than {_CONFIG}: {error}"
            ) from error


def next_free(folder: Path) -> Path:
    """The folder itself, or NAME-2, NAME-3 ... if something has that name already."""
    numbered = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(path for path in itertools.chain([folder], numbered) if not path.exists())


def _spread(names: Iterable[str], ranks: Ranks) -> dict[str, Holding]:
    """The arrays of a checkpoint that have an entry for each expert, and who holds which."""
    found = {name: ranks.holding(name.removeprefix(MODEL).removeprefix(_OPTIMIZER)) for name in names}
    return {name: holding for name, holding in found.items() if holding is not None}
