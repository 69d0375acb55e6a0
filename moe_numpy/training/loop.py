"""The training loop: batches in, loss down, a run folder that survives interruption."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import NonFiniteError, check_finite
from ..autodiff.arrays import to_host
from ..devices import DEVICES, DTYPES, float_type, generator
from ..models import ModelConfig, Transformer
from ..moe.routing import Statistics
from ..ops import CrossEntropy
from .checkpoints import load_checkpoint, save_checkpoint
from .corpus import Corpus
from .files import append_jsonl, truncate_history, write_json_atomically
from .optimizers import AdamW, clip_factor, global_norm
from .schedule import WarmupCosine


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        steps: optimizer steps in all; the learning rate's schedule ends there.
        batch_size: sequences in one forward pass.
        accumulate: forward and backward passes whose mean gradient makes one step.
        learning_rate: the peak, reached after ``warmup`` steps.
        warmup: steps of linear increase.
        weight_decay: of matrices, decoupled from the gradient.
        max_norm: gradients longer than this are scaled down to it.
        seed: of weights, batches and noise.
        checkpoint_every: steps between checkpoints.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: of weights and activations, ``"float32"`` or, on cuda, ``"bfloat16"``; the optimizer has float32.
    """

    steps: int = 300
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 3e-3
    warmup: int = 30
    weight_decay: float = 0.1
    max_norm: float = 1.0
    seed: int = 0
    checkpoint_every: int = 100
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "max_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"warmup must be at least 0 and below steps={self.steps}, got {self.warmup}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        for name, allowed in (("device", DEVICES), ("dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.dtype == "bfloat16" and self.device == "cpu":
            raise ValueError("dtype bfloat16 needs device cuda: a CPU has no fast products for it; use float32")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainingConfig":
        """Read ``dataclasses.asdict`` back. ValueError for a name that does not belong."""
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown settings in a training configuration: {', '.join(unknown)}")
        return cls(**values)


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step did; one line of ``history.jsonl``."""

    step: int  # completed steps, this one included
    loss: float  # cross-entropy in nats per byte
    auxiliary_loss: float
    learning_rate: float
    gradient_norm: float
    dropped_fraction: float
    expert_load: list[list[float]]  # share of assignments, sparse layer by expert
    seconds: float


class Trainer:
    """A model, its optimizer and its place in the data.

    Every step is a function of the state before it and of its number alone: batches and noise are drawn from
    generators seeded with (seed, step). A resumed run therefore repeats an uninterrupted one bit for bit. Initial
    weights and batches are the same on every device, the routers' noise is not.

    On a GPU model, optimizer, text and noise live there. What a step reports comes to the host in one small array, and
    the norm of the gradients as one number.

    Args:
        model_config: the model to build.
        config: how to train it, and where.
        corpus: the text.

    Raises:
        ValueError: the text has bytes that the model has no token for, or the device cannot be had (DeviceError).
    """

    def __init__(self, model_config: ModelConfig, config: TrainingConfig, corpus: Corpus):
        highest = corpus.largest_byte
        if highest >= model_config.vocab_size:
            raise ValueError(f"the text has a byte {highest}: vocab_size={model_config.vocab_size} is too small")
        self.config = config
        self.corpus = corpus
        self.model = Transformer(model_config, rng=np.random.default_rng(config.seed))
        self.model.to(config.device, float_type(config.dtype))
        self.optimizer = AdamW(self.model.named_parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.schedule = WarmupCosine(config.learning_rate, config.warmup, config.steps)
        self.completed = 0

    @property
    def tokens_per_step(self) -> int:
        """Bytes that one optimizer step learns from."""
        return self.config.accumulate * self.config.batch_size * self.model.config.context

    def step(self) -> StepRecord:
        """Forward, backward and one update.

        Raises:
            NonFiniteError: the loss or a gradient is NaN or infinite. The message names the op that produced
                it first. The weights are those from before the step.
        """
        began = time.perf_counter()
        with np.errstate(all="ignore"):  # what overflows is found below, and named
            passes = self._accumulate_gradients()
            norm = global_norm(p.grad for p in self.model.parameters())
        report = _report(passes)
        if not math.isfinite(report.loss + report.auxiliary_loss + norm):
            self._explain_non_finite(report.loss, norm)
        learning_rate = self.schedule(self.completed)
        self.optimizer.step(lr=learning_rate, gradient_scale=clip_factor(norm, self.config.max_norm))
        self.model.after_step()
        self.completed += 1
        return StepRecord(
            step=self.completed,
            loss=report.loss,
            auxiliary_loss=report.auxiliary_loss,
            learning_rate=learning_rate,
            gradient_norm=norm,
            dropped_fraction=report.dropped / max(float(report.load.sum()), 1),
            expert_load=[(c / c.sum()).round(5).tolist() for c in report.load],
            seconds=time.perf_counter() - began,
        )

    def train(self, on_step: Callable[[StepRecord], None], folder: Path | None = None) -> bool:
        """Run the remaining steps; return False if Ctrl-C ended them early.

        Args:
            on_step: called after each step, to show progress.
            folder: a run folder for the history and for checkpoints; None keeps nothing.
        """
        saved = self.completed
        with _interrupts() as interrupted:
            while self.completed < self.config.steps and not interrupted.is_set():
                record = self.step()
                if folder is not None:
                    append_jsonl(folder / "history.jsonl", asdict(record))
                    if self.completed % self.config.checkpoint_every == 0:
                        self.save(folder)
                        saved = self.completed
                on_step(record)
            if folder is not None and saved < self.completed:
                self.save(folder)
        return self.completed == self.config.steps

    def save(self, folder: Path) -> None:
        """Write a checkpoint of the completed steps."""
        arrays = {f"model.{name}": array for name, array in self.model.state_dict().items()}
        arrays |= {f"optimizer.{name}": array for name, array in self.optimizer.state_dict().items()}
        save_checkpoint(folder, self.completed, arrays, {"text": self.corpus.fingerprint})

    def resume(self, folder: Path, step: int | None = None) -> None:
        """Continue from the newest checkpoint of a run folder, or from the one of ``step``.

        Raises:
            ValueError: the checkpoint is of another model or of other text than ``corpus``, or cannot be
                trusted (CheckpointError).
        """
        checkpoint = load_checkpoint(folder, step)
        if checkpoint.meta.get("text") != self.corpus.fingerprint:
            raise ValueError(
                f"the text has changed since {folder} began, or is that of another Python version; "
                "a run continues only on the bytes that it began with"
            )
        self.model.load_state_dict(_below("model.", checkpoint.arrays))
        self.optimizer.load_state_dict(_below("optimizer.", checkpoint.arrays))
        self.completed = checkpoint.step
        truncate_history(folder / "history.jsonl", checkpoint.step)

    def _accumulate_gradients(self) -> "list[_Pass]":
        """Fill ``.grad`` with the mean over the passes; return what each of them left behind."""
        config, model = self.config, self.model
        model.zero_grad()
        passes = []
        for i in range(config.accumulate):
            number = self.completed * config.accumulate + i
            batch = self.corpus.batch(
                number,
                batch_size=config.batch_size,
                context=model.config.context,
                seed=config.seed,
                device=config.device,
            )
            output = model(batch.tokens, rng=generator(config.device, [config.seed, number, 1]))
            loss, auxiliary = CrossEntropy.apply(output.logits, batch.targets), output.auxiliary_loss
            objective = loss if auxiliary is None else loss + auxiliary
            (objective * (1 / config.accumulate)).backward()
            statistics = [r.statistics for r in output.routings if r is not None]
            passes.append(_Pass(loss.data, None if auxiliary is None else auxiliary.data, statistics))
        return passes

    def _explain_non_finite(self, loss: float, norm: float) -> None:
        """Repeat the passes with every op checked, so that the first culprit is named."""
        at = f"step {self.completed + 1}: loss {loss}, gradient norm {norm}"
        try:
            with check_finite(), np.errstate(all="ignore"):
                self._accumulate_gradients()
        except NonFiniteError as error:
            error.add_note(at)
            raise
        raise NonFiniteError("the gradient norm", "sum", f"a non-finite value at {at}")


class _Pass(NamedTuple):
    """What a forward pass left behind, where it was computed."""

    loss: Any
    auxiliary_loss: Any  # None if no router has one
    statistics: list[Statistics]


class _Report(NamedTuple):
    """The passes of one step, as numbers on the host."""

    loss: float
    auxiliary_loss: float
    load: Any  # Float[L, E]: assignments asked of each expert of each layer with a router
    dropped: int


def _report(passes: list[_Pass]) -> _Report:
    """Mean losses, summed loads. They leave the device in one array of float64, which holds all of them exactly."""
    xp = array_namespace(passes[0].loss)
    rows = []
    for p in passes:
        auxiliary = xp.zeros(1) if p.auxiliary_loss is None else p.auxiliary_loss
        parts = [p.loss, auxiliary, *(s.load for s in p.statistics)]
        rows.append(xp.concat([xp.asarray(part, dtype=xp.float64).reshape(-1) for part in parts]))
    table = to_host(xp.stack(rows))
    mean_loss = mean_auxiliary = 0.0
    for loss_of_pass, auxiliary_of_pass in table[:, :2].tolist():
        mean_loss += loss_of_pass / len(passes)
        mean_auxiliary += auxiliary_of_pass / len(passes)
    num_layers = len(passes[0].statistics)
    load = np.array_split(table[:, 2:].sum(axis=0), num_layers) if num_layers else []
    return _Report(mean_loss, mean_auxiliary, np.array(load), sum(len(s.dropped) for p in passes for s in p.statistics))


def start_run(folder: Path, model: ModelConfig, training: TrainingConfig, text: list[str]) -> None:
    """Create a run folder with its ``config.json``.

    Raises:
        FileExistsError: the folder holds a run already.
    """
    if (folder / "config.json").exists():
        raise FileExistsError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model": model.to_json(), "training": asdict(training), "text": text}
    write_json_atomically(folder / "config.json", config)


def _below(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Let Ctrl-C finish the step at hand, so that no weight is half updated. A second one stops at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def note(signum: int, frame: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
