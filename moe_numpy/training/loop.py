"""The training loop."""

import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..autodiff import NonFiniteError, check_finite
from ..autodiff.arrays import library_of, to_host
from ..devices import DeviceGenerator, float_type, key_of, put
from ..models import Transformer
from ..moe import MoE
from ..parallel import Placement, rebalance
from ..parallel.parts import PartStopped
from .config import TrainingConfig
from .corpus import Corpus
from .freezing import frozen_runs, trained_parameters
from .interrupts import interrupts
from .model_settings import ModelSettings, plain_settings
from .optimizers import AdamW, clip_factor_of
from .passes import ByModality, next_token_loss
from .pictures import pictures_per_window
from .ranks import Ranks
from .reallocation import require_reallocatable, schedules, split_idle
from .record import StepRecord
from .run_model import initial_model
from .runs import Run
from .schedule import WarmupCosine

_ONLY_OF_PICTURES = {"patch_embedding", "other_routers"}  # parts of a model that text does not pass through
_FAILED = -1  # in place of the number of a signal


class Trainer:
    """A model, its optimizer and its place in the data.

    A step depends only on the state before it and on its number: batches and noise are drawn from generators seeded
    with (seed, step). A resumed run therefore repeats an uninterrupted one bit for bit; on NumPy's kernels with
    equally many threads. Initial weights and batches are the same on every device; the routers' noise is not.

    On a GPU, model, optimizer, text and noise live there. Per step, one small array comes to the host: losses, loads
    and the norm of the gradients. A whole step, from the forward pass to the update of weights and balancers, is
    recorded as one CUDA graph at the second step and then replayed, if no shape in it depends on values;
    :attr:`not_recorded` says why not. On several ranks it is not: how many tokens a rank has, how many assignments are
    its own and how many rows travel come to the host, once each in the forward pass of a layer with experts.

    Args:
        model_config: the model to build.
        config: how to train it, and where.
        corpus: the text, and pictures where ``config.image_batch_size`` asks for them.
        source: the folder of the run, or of the published model, whose weights it begins with. Those of a published
            ``model_config`` without it are zero until :meth:`resume`.
        ranks: those that train the model together, each with a Trainer of its own, which do everything at the same
            time; this one alone by default.

    Raises:
        ValueError: the text has tokens that the model does not have, the device is not available (DeviceError), this
            machine has too little memory, nothing is left to train, the model in ``source`` cannot be read, there
            are more ranks than sequences in a batch, ranks differ in model, training or text,
            or the model, the corpus or several ranks do not go with pictures.
    """

    stopped_by: signal.Signals | None = None
    """The signal that ended :meth:`train` early."""

    not_recorded: str | None = None
    """Why the steps on a GPU run launch by launch; None if they are replayed, are still to be recorded, or on a CPU."""

    def __init__(
        self,
        model_config: ModelSettings,
        config: TrainingConfig,
        corpus: Corpus,
        source: Path | None = None,
        ranks: Ranks | None = None,
    ):
        self.ranks = Ranks() if ranks is None else ranks
        if self.ranks.size > 1:
            settings = {f"model.{name}": value for name, value in plain_settings(model_config).items()}
            settings |= {f"training.{name}": value for name, value in asdict(config).items()}
            self.ranks.require_equal(settings | {"text": corpus.fingerprint})
        if self.ranks.size > config.batch_size:
            raise ValueError(
                f"batch_size must be at least the number of ranks, {self.ranks.size}, got {config.batch_size}"
            )
        highest = corpus.largest_token
        if highest >= model_config.vocab_size:
            raise ValueError(
                f"the text has a {corpus.unit} {highest}: vocab_size={model_config.vocab_size} is too small"
            )
        if config.image_batch_size:
            _require_pictures(model_config, corpus, self.ranks)
        self.config = config
        self.corpus = corpus
        self.model = initial_model(model_config, config, source)
        self.num_parameters, self.active_parameters = self.model.num_parameters(), self.model.active_parameters()
        self.trained_parameters = trained_parameters(self.model)
        scopes = {"capacity_scope": config.capacity_scope, "balance_scope": config.balance_scope}
        self.ranks.share(self.model, **scopes, deduplicate=config.deduplicate)
        self.model.to(config.device, float_type(config.dtype))
        if not config.image_batch_size:
            _require_no_pictures(self.model)
        named: Any = self.model.named_parameters()
        if config.freeze:  # no moments for the others
            named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self.optimizer = AdamW(named, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.schedule = WarmupCosine(config.learning_rate, config.warmup, config.steps)
        require_reallocatable(self.model, config, self.ranks.size)
        self.completed = 0
        if self.ranks.size > 1 and config.device == "cuda":
            self.not_recorded = "how many rows travel to which rank depends on values"
        self._graph: Any = None
        self._recorded_with: Any = None
        self._loads: list[list[list[float]]] = []  # of the steps since experts last moved
        self._since_split: list[list[list[float]]] = []  # and of those since they were last split

    @property
    def tokens_per_step(self) -> int:
        """Tokens per optimizer step."""
        windows = self.config.batch_size + self.config.image_batch_size
        return self.config.accumulate * windows * self.model.context

    def step(self) -> StepRecord:
        """Forward, backward and one update.

        Raises:
            NonFiniteError: the loss or a gradient is NaN or infinite. The message names the op that produced it
                first. The weights are as before the step.
        """
        began = time.perf_counter()
        learning_rate = self.schedule(self.completed)
        with schedules(self.model, self.config, self.completed):
            with np.errstate(all="ignore"):  # overflow is found and named below
                results = self._replayed_or_run(learning_rate)
                report = _report(results)
            norm = report.gradient_norm
            if not math.isfinite(report.loss + report.auxiliary_loss + norm):
                self._explain_non_finite(report.loss, norm)
        self.optimizer.steps += 1
        self.completed += 1
        load = [(c / max(c.sum(), 1)).round(5).tolist() for c in report.load]
        return StepRecord(
            step=self.completed,
            loss=report.loss,
            auxiliary_loss=report.auxiliary_loss,
            learning_rate=learning_rate,
            gradient_norm=norm,
            dropped_fraction=float(report.dropped) / max(float(report.load.sum()), 1),
            expert_load=load,
            seconds=time.perf_counter() - began,
            splits=self._split_if_due(load),
            **_details(results.by_modality),
        )

    def train(self, on_step: Callable[[StepRecord], None], run: Run | None = None) -> bool:
        """Take the remaining steps; return False if Ctrl-C, SIGTERM or SIGHUP ended them early, on any rank.

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

        failure: BaseException | None = None
        with interrupts() as interrupt:
            stop = self.ranks.first_of(interrupt.received or 0)
            while self.completed < self.config.steps and not stop:
                record = self.step()
                if run is not None and self.ranks.is_first:
                    run.append_history({name: v for name, v in asdict(record).items() if v is not None})
                self._rebalance_if_due(record)
                if self.completed % self.config.checkpoint_every == 0:
                    save()
                try:
                    on_step(record)
                except (OSError, SystemExit) as error:  # rich ends the program when a pipe is closed
                    failure = error
                stop = self.ranks.first_of(_FAILED if failure else interrupt.received or 0)
            save()
        if failure is not None:
            raise failure
        if stop == _FAILED:
            raise PartStopped("another rank cannot print")
        self.stopped_by = signal.Signals(stop) if stop else None
        return self.completed == self.config.steps

    def _rebalance_if_due(self, record: StepRecord) -> None:
        """Move experts by the mean load of the steps since they last moved."""
        every, self._loads = self.config.rebalance_every, [*self._loads, record.expert_load]
        if every and self.ranks.size > 1 and self.completed % every == 0:
            self.place_by_load([np.mean(of_layer, axis=0).tolist() for of_layer in zip(*self._loads, strict=True)])
        if not every or self.completed % every == 0:
            self._loads = []

    def _split_if_due(self, load: list[list[float]]) -> list[list[int]]:
        """Split experts by the mean load of the last ``split_every`` steps."""
        every, below = self.config.split_every, self.config.split_below
        if not every:
            return []
        self._since_split.append(load)
        if self.completed % every:
            return []
        mean = [np.mean(of_layer, axis=0) for of_layer in zip(*self._since_split, strict=True)]
        self._since_split = []
        rng = np.random.default_rng([self.config.seed, self.completed, 2])
        return split_idle(self.model, self.optimizer, mean, below, rng)

    def place_by_load(self, load: Sequence[Sequence[float]], places: int | None = None) -> dict[str, float]:
        """Move experts to other ranks so that no rank has much more to do than another; all ranks together.

        Args:
            load: of the experts of each routed layer, for instance ``StepRecord.expert_load``.
            places: the most experts on a rank; more than E / R make replicas of loaded experts. By default that of the
                configuration, or ⌈E / R⌉.

        Returns:
            By layer, the largest load of a rank over the mean, by this load.
        """
        model, found = self.model, {}
        for i, of_experts in zip(model.routed_layers, load, strict=True):
            layer = model.layers[i].feed_forward
            if isinstance(layer, MoE) and layer.holding is not None:
                asked = np.asarray(of_experts[: layer.num_experts], np.float64)
                most = places or self.config.places or -(-layer.num_experts // self.ranks.size)
                new = rebalance(asked, layer.holding.placement, most) if self.ranks.is_first else None
                told = self.ranks.told(json.dumps(new.to_json()) if new is not None else "")
                found[f"layers.{i}.feed_forward"] = asked, Placement.from_json(json.loads(told))
        self.ranks.place(model, self.optimizer, {path: new for path, (_, new) in found.items()})
        loads = {path: new.rank_load(asked) for path, (asked, new) in found.items()}
        return {path: float(each.max() / max(each.mean(), 1e-30)) for path, each in loads.items()}

    def save(self, run: Run) -> None:
        """Write a checkpoint of the completed steps."""
        run.save(self.completed, self.model, self.optimizer, self.corpus.fingerprint, self.ranks)

    def resume(self, run: Run, step: int | None = None) -> None:
        """Continue from the newest checkpoint of a run, or from the one of ``step``; see :meth:`Run.restore`."""
        self.completed = run.restore(self.model, self.optimizer, self.corpus, step, self.ranks)
        if self.config.split_every:
            since = self.completed % self.config.split_every
            self._since_split = [each["expert_load"] for each in run.history()[self.completed - since :]]

    def _replayed_or_run(self, learning_rate: float) -> "_Results":
        """This step, replayed from a recording where there is one."""
        rates = put(np.array(self.optimizer.rates(learning_rate)), self.config.device)
        inputs = [rates, *self._inputs()]
        if library_of(rates) != "cupy" or self.not_recorded is not None:
            return self._run(*inputs)
        from ..kernels.cuda_graph import CudaGraph, NotRecordable

        if self._recorded_with != (state := self._memory()):
            self._graph, self._recorded_with = CudaGraph(self._run), state
        try:
            results: _Results = self._graph(*inputs)
        except NotRecordable as error:
            self.not_recorded, self._graph = str(error), None
            return self._run(*inputs)
        for parameter, gradient in results.gradients:
            parameter.grad = gradient
        return results

    def _memory(self) -> list[Any]:
        """What a recording depends on."""
        optimizer = self.optimizer
        tensors = [*optimizer.parameters.values(), *(buffer for _, buffer in self.model.named_buffers())]
        modes = [(module.training, getattr(module, "config", None)) for _, module in self.model.named_modules()]
        settings = [optimizer.betas, optimizer.eps, optimizer.weight_decay]
        marks = [(id(tensor.data), tensor.requires_grad, getattr(tensor, "frozen", None)) for tensor in tensors]
        return [settings, modes, marks]

    def _run(self, rates: Any, *inputs: Any) -> "_Results":
        """Passes and updates. Nothing is updated if a loss or gradient is not finite."""
        results = self._accumulate_gradients(*inputs)
        numbers, xp = results.numbers, self.model.namespace
        finite = xp.isfinite(numbers).all()
        scale = xp.where(finite, clip_factor_of(numbers[0], self.config.max_norm), math.nan)
        self.optimizer.update(xp.concat([scale, rates]))
        state = [(buffer, buffer.data.copy()) for _, buffer in self.model.named_buffers()]
        self.model.after_step()
        for buffer, before in state:
            buffer.data[...] = xp.where(finite, buffer.data, before)
            for run in frozen_runs(buffer):
                buffer.data[run] = before[run]
        return results

    def _inputs(self) -> list[Any]:
        """Of each pass: what noise is drawn from, a generator or the key of one on a GPU; token ids and targets.

        Then, where there are pictures, the token ids and targets of theirs, and the pictures.
        """
        config, context = self.config, self.model.context
        numbers = range(self.completed * config.accumulate, (self.completed + 1) * config.accumulate)
        settings: Any = {"context": context, "batch_size": config.batch_size, "seed": config.seed}
        inputs: list[Any] = []
        own = self.ranks.own(config.batch_size)
        for n in numbers:
            batch, seed = self.corpus.batch(n, device=config.device, **settings), [config.seed, n, 1]
            noise = np.random.default_rng(seed) if config.device == "cpu" else put(key_of(seed), config.device)
            inputs += [noise, batch.tokens[own], batch.targets[own]]
            if config.image_batch_size:
                inputs += self._pictures(n)
        return inputs

    def _pictures(self, number: int) -> list[Any]:
        """Token ids, targets and pictures of a pass."""
        assert self.corpus.pictures is not None
        assert self.model.patch_embedding is not None
        found = self.corpus.pictures.batch(
            number,
            num_windows=self.config.image_batch_size,
            context=self.model.context,
            num_patches=self.model.patch_embedding.num_patches,
            seed=self.config.seed,
        )
        return [found.tokens, found.targets, found.images]

    def _accumulate_gradients(self, *inputs: Any) -> "_Results":
        """Fill ``.grad`` with the mean over the passes, of all ranks."""
        config, model, xp, ranks = self.config, self.model, self.model.namespace, self.ranks
        parameters, modules = list(model.parameters()), [module for _, module in model.named_modules()]
        for parameter in parameters:
            parameter.grad = None
        for module in modules:
            module.forget_passes()  # of a step that failed
        rows, of_passes = [], []
        width = len(inputs) // config.accumulate
        for start in range(0, len(inputs), width):
            noise, *batch = inputs[start : start + width]
            rng = noise if isinstance(noise, np.random.Generator) else DeviceGenerator(noise)
            mean, output, by_modality = next_token_loss(model, rng, *batch)
            of_passes += [] if by_modality is None else [by_modality]
            loss, auxiliary = ranks.objective(mean, output.auxiliary_loss, config.batch_size)
            objective = loss if auxiliary is None else loss + auxiliary
            (objective * (1 / config.accumulate)).backward()
            statistics = [r.statistics for r in output.routings if r is not None]
            parts = [loss.data, xp.zeros(1) if auxiliary is None else auxiliary.data]
            parts += [s.num_dropped for s in statistics] + [s.load for s in statistics]
            rows.append(xp.concat([xp.asarray(part, dtype=xp.float64).reshape(-1) for part in parts]))
        ranks.sum_gradients(model.named_parameters())
        gradients = [(p, p.grad) for p in parameters]
        squares = xp.asarray(ranks.sum_of_squares(model.named_parameters()))
        numbers = ranks.add_up(xp.concat([squares.reshape(1), *rows]))
        return _Results(numbers, config.accumulate, len(statistics), gradients, of_passes)

    def _explain_non_finite(self, loss: float, norm: float) -> None:
        """Repeat the passes with every op checked, to name the first that produced the value."""
        at = f"step {self.completed + 1}: loss {loss}, gradient norm {norm}"
        try:
            with check_finite(), np.errstate(all="ignore"):
                self._accumulate_gradients(*self._inputs())
        except NonFiniteError as error:
            error.add_note(at)
            raise
        raise NonFiniteError("the gradient norm", "sum", f"a non-finite value at {at}")


class _Results(NamedTuple):
    """The passes of one step."""

    numbers: Any  # on the device, in float64: Σ g²; then loss, auxiliary loss, drops and loads of each pass
    num_passes: int
    num_layers: int  # with a router
    gradients: list[tuple[Any, Any]]  # parameters and theirs
    by_modality: list[ByModality]  # of each pass with pictures


def _details(passes: list[ByModality]) -> dict[str, Any]:
    """The fields of :class:`StepRecord` that only steps with pictures have."""
    if not passes:
        return {}
    load = np.sum([each.load for each in passes], axis=0)
    return {
        "text_loss": float(np.mean([each.text_loss for each in passes])),
        "caption_loss": float(np.mean([each.caption_loss for each in passes])),
        "auxiliary_losses": {
            name: float(np.mean([each.auxiliary[name] for each in passes])) for name in passes[0].auxiliary
        },
        "load_by_modality": (load / np.maximum(load.sum(axis=2, keepdims=True), 1)).round(5).tolist(),
    }


def _require_pictures(model: ModelSettings, corpus: Corpus, ranks: Ranks) -> None:
    if ranks.size > 1:
        raise ValueError(f"pictures are trained on by one rank, and there are {ranks.size}")
    if corpus.pictures is None:
        raise ValueError("image_batch_size needs a corpus with pictures")
    if model.transformer.images is None:
        raise ValueError("image_batch_size needs a model with images; its image_size is 0")
    image_size, patch_size = model.transformer.images
    pictures_per_window((image_size // patch_size) ** 2, model.context)


def _require_no_pictures(model: Transformer) -> None:
    """ValueError for parameters that text alone does not reach, unless they are frozen."""
    named = model.named_parameters()
    idle = [name for name, p in named if p.requires_grad and not _ONLY_OF_PICTURES.isdisjoint(name.split("."))]
    if idle:
        raise ValueError(
            f"image_batch_size=0, but only pictures train {', '.join(idle)}: freeze these, or train on pictures too"
        )


class _Report(NamedTuple):
    """The passes of one step, as numbers on the host."""

    loss: float
    auxiliary_loss: float
    gradient_norm: float
    load: Any  # Float[layers, E]: assignments to each expert of each routed layer, before dropping
    dropped: float


def _report(results: _Results) -> _Report:
    """Mean losses and summed loads."""
    squares, *rest = np.split(to_host(results.numbers), [1])
    table = rest[0].reshape(results.num_passes, -1)
    mean_loss = mean_auxiliary = 0.0
    for loss_of_pass, auxiliary_of_pass in table[:, :2].tolist():
        mean_loss += loss_of_pass / len(table)
        mean_auxiliary += auxiliary_of_pass / len(table)
    layers = results.num_layers
    dropped, loads = np.split(table[:, 2:].sum(axis=0), [layers])
    load = np.array_split(loads, layers) if layers else []
    return _Report(mean_loss, mean_auxiliary, math.sqrt(squares[0]), np.array(load), dropped.sum())
