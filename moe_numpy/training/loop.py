"""The training loop."""

import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import NonFiniteError, check_finite
from ..autodiff.arrays import to_host
from ..devices import float_type, generator
from ..models import ModelConfig, Transformer
from ..moe.routing import Statistics
from ..ops import CrossEntropy
from .config import TrainingConfig
from .corpus import Corpus
from .interrupts import interrupts
from .memory import require_memory
from .optimizers import AdamW, clip_factor, global_norm
from .record import StepRecord
from .runs import Run
from .schedule import WarmupCosine


class Trainer:
    """A model, its optimizer and its place in the data.

    A step depends only on the state before it and on its number: batches and noise are drawn from generators seeded
    with (seed, step). A resumed run therefore repeats an uninterrupted one bit for bit; on NumPy's kernels with
    equally many threads. Initial weights and batches are the same on every device; the routers' noise is not.

    On a GPU, model, optimizer, text and noise live there. Per step, one small array of losses and loads and the norm of
    the gradients come to the host.

    Args:
        model_config: the model to build.
        config: how to train it, and where.
        corpus: the text.

    Raises:
        ValueError: the text has bytes that the model has no token for, the device is not available (DeviceError), or
            this machine has too little memory.
    """

    stopped_by: signal.Signals | None = None
    """The signal that ended :meth:`train` early."""

    def __init__(self, model_config: ModelConfig, config: TrainingConfig, corpus: Corpus):
        highest = corpus.largest_byte
        if highest >= model_config.vocab_size:
            raise ValueError(f"the text has a byte {highest}: vocab_size={model_config.vocab_size} is too small")
        require_memory(model_config, config)
        self.config = config
        self.corpus = corpus
        self.model = Transformer(model_config, rng=np.random.default_rng(config.seed))
        self.model.to(config.device, float_type(config.dtype))
        self.optimizer = AdamW(self.model.named_parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.schedule = WarmupCosine(config.learning_rate, config.warmup, config.steps)
        self.completed = 0

    @property
    def tokens_per_step(self) -> int:
        """Bytes per optimizer step."""
        return self.config.accumulate * self.config.batch_size * self.model.config.context

    def step(self) -> StepRecord:
        """Forward, backward and one update.

        Raises:
            NonFiniteError: the loss or a gradient is NaN or infinite. The message names the op that produced it
                first. The weights are as before the step.
        """
        began = time.perf_counter()
        with np.errstate(all="ignore"):  # overflow is found and named below
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
            expert_load=[(c / max(c.sum(), 1)).round(5).tolist() for c in report.load],
            seconds=time.perf_counter() - began,
        )

    def train(self, on_step: Callable[[StepRecord], None], run: Run | None = None) -> bool:
        """Take the remaining steps; return False if Ctrl-C, SIGTERM or SIGHUP ended them early.

        All completed steps are saved then, and also if ``on_step`` cannot print to a closed pipe.

        Args:
            on_step: called after each step, to show progress.
            run: keeps the history and checkpoints; without one nothing is kept.
        """
        saved = self.completed

        def save() -> None:
            nonlocal saved
            if run is not None and saved < self.completed:
                self.save(run)
                saved = self.completed

        with interrupts() as interrupt:
            while self.completed < self.config.steps and interrupt.received is None:
                record = self.step()
                if run is not None:
                    run.append_history(asdict(record))
                if self.completed % self.config.checkpoint_every == 0:
                    save()
                try:
                    on_step(record)
                except (OSError, SystemExit):  # rich ends the program when a pipe is closed
                    save()
                    raise
            save()
        self.stopped_by = interrupt.received
        return self.completed == self.config.steps

    def save(self, run: Run) -> None:
        """Write a checkpoint of the completed steps."""
        run.save(self.completed, self.model, self.optimizer, self.corpus.fingerprint)

    def resume(self, run: Run, step: int | None = None) -> None:
        """Continue from the newest checkpoint of a run, or from the one of ``step``; see :meth:`Run.restore`."""
        self.completed = run.restore(self.model, self.optimizer, self.corpus, step)

    def _accumulate_gradients(self) -> "list[_Pass]":
        """Fill ``.grad`` with the mean over the passes; return the results of each."""
        config, model = self.config, self.model
        model.zero_grad()
        for _, module in model.named_modules():
            module.forget_passes()  # of a step that failed
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
        """Repeat the passes with every op checked, to name the first that produced the value."""
        at = f"step {self.completed + 1}: loss {loss}, gradient norm {norm}"
        try:
            with check_finite(), np.errstate(all="ignore"):
                self._accumulate_gradients()
        except NonFiniteError as error:
            error.add_note(at)
            raise
        raise NonFiniteError("the gradient norm", "sum", f"a non-finite value at {at}")


class _Pass(NamedTuple):
    """The results of a forward pass, on the device."""

    loss: Any
    auxiliary_loss: Any  # None if no router has one
    statistics: list[Statistics]


class _Report(NamedTuple):
    """The passes of one step, as numbers on the host."""

    loss: float
    auxiliary_loss: float
    load: Any  # Float[L, E]: assignments to each expert of each routed layer, before dropping
    dropped: int


def _report(passes: list[_Pass]) -> _Report:
    """Mean losses and summed loads. They leave the device in one float64 array, which holds all of them exactly."""
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
