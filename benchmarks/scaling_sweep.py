"""The models of a scaling law: which are trained, how, and the file of those that are finished.

A model is a byte transformer of width d whose feed-forward networks are 4 d wide, with as many key and value heads as
query heads: N = 16 d² per layer. With E experts and granularity G, each network becomes E G experts of width 4 d / G,
of which a byte uses G: N stays. Experts are chosen as in OLMoE: softmax, the best G, their probabilities as weights,
nothing dropped; with E = 1 the model is dense.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from moe_numpy.files import append_jsonl, read_jsonl, with_checksum, write_atomically
from moe_numpy.models import ModelConfig
from moe_numpy.training import Corpus, StepRecord, Trainer, TrainingConfig
from moe_numpy.training.evaluation import WINDOWS_PER_DOMAIN, evaluate

_PEAK, _PEAK_AT = 3e-3, 1e6  # the package's learning rate, for which N
_DECAY = 0.4


@dataclass(frozen=True)
class Model:
    """What is trained.

    Attributes:
        d_model: d.
        experts: E.
        granularity: G.
        tokens: D.
        seed: of weights, batches and noise.
        rate: the learning rate over that of the rule.
    """

    d_model: int
    experts: int
    granularity: int
    tokens: int
    seed: int = 0
    rate: float = 1.0


@dataclass(frozen=True)
class Sweep:
    """A grid of models.

    Attributes:
        layers: of each model.
        d_head: width of an attention head; d is a multiple.
        context: bytes per sequence.
        batch_size: sequences per step.
        widths: values of d.
        experts: values of E, at ``fixed_tokens`` and G = 1.
        granularities: values of G, at ``fixed_experts`` and ``fixed_tokens``.
        tokens: values of D, at ``fixed_experts`` and G = 1.
        seeds: of one model of each of the two smallest widths; the others have the first.
    """

    layers: int
    d_head: int
    context: int
    batch_size: int
    widths: tuple[int, ...]
    experts: tuple[int, ...]
    granularities: tuple[int, ...]
    tokens: tuple[int, ...]
    fixed_experts: int
    fixed_tokens: int
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = (0.5, 2.0)
    models: tuple[Model, ...] = field(init=False)

    def __post_init__(self) -> None:
        e, d = self.fixed_experts, self.fixed_tokens
        found = []
        for width in self.widths:
            found += [Model(width, experts, 1, d) for experts in self.experts]
            found += [Model(width, e, 1, tokens) for tokens in self.tokens]
            found += [Model(width, e, granularity, d) for granularity in self.granularities]
        for width in (self.widths[0], self.widths[-1]):  # a product that no axis shows
            far = self.tokens[0], self.tokens[-1]
            found += [Model(width, e, self.granularities[-1], tokens) for tokens in far]
            found += [Model(width, e, 1, d, rate=rate) for rate in self.rates]
        for width, experts in ((self.widths[0], e), (self.widths[1], self.experts[-1])):
            found += [Model(width, experts, 1, d, seed) for seed in self.seeds]
        object.__setattr__(self, "models", tuple(dict.fromkeys(found)))

    def parameters(self, model: Model) -> int:
        """N: attention and feed-forward weights that a byte is multiplied with; no router, embedding or output."""
        return 16 * self.layers * model.d_model**2

    def learning_rate(self, model: Model) -> float:
        """The peak: 0.003 (10⁶ / N)^0.4, times ``rate``."""
        return model.rate * _PEAK * (_PEAK_AT / self.parameters(model)) ** _DECAY

    def model_config(self, model: Model) -> ModelConfig:
        """The transformer."""
        heads, count = model.d_model // self.d_head, model.experts * model.granularity
        return ModelConfig(
            d_model=model.d_model,
            num_layers=self.layers,
            num_heads=heads,
            num_kv_heads=heads,
            context=self.context,
            d_ff=4 * model.d_model // model.granularity,
            num_experts=0 if model.experts == 1 else count,
            recipe="olmoe",
            recipe_settings={"top_k": model.granularity},
        )

    def training_config(self, model: Model, device: str) -> TrainingConfig:
        """Warm-up over a tenth of the steps, then half a cosine to the end of this model's tokens."""
        steps = model.tokens // (self.batch_size * self.context)
        rate = self.learning_rate(model)
        return TrainingConfig(steps, self.batch_size, 1, rate, steps // 10, seed=model.seed, device=device)


_LARGE = Sweep(
    layers=4,
    d_head=32,
    context=128,
    batch_size=16,
    widths=(32, 64, 128, 256),
    experts=(1, 2, 4, 8, 16, 32),
    granularities=(1, 2, 4, 8),
    tokens=(2**19, 2**20, 2**21, 2**22),
    fixed_experts=8,
    fixed_tokens=2**21,
)
_SMALL = Sweep(
    layers=2,
    d_head=8,
    context=64,
    batch_size=8,
    widths=(16, 24, 32, 48),
    experts=(1, 2, 4, 8),
    granularities=(1, 2, 4),
    tokens=(2**16, 2**17, 2**18),
    fixed_experts=4,
    fixed_tokens=2**17,
)
SWEEPS = {"large": _LARGE, "small": _SMALL}


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the results: a trained model, its sizes and its loss in nats per byte of held-out text."""

    sweep: str
    d_model: int
    experts: int
    granularity: int
    tokens: int
    seed: int
    rate: float
    learning_rate: float
    parameters: int
    active: int
    total: int
    loss: float
    domain_loss: list[float]
    seconds: float
    device: str
    text: str
    checksum: int

    @property
    def model(self) -> Model:
        """What was trained."""
        return Model(self.d_model, self.experts, self.granularity, self.tokens, self.seed, self.rate)


def train(
    name: str, model: Model, corpus: Corpus, device: str, path: Path, on_step: Callable[[StepRecord], None]
) -> Result:
    """Train a model of the sweep of this name and add its line to the results.

    Raises:
        NonFiniteError: the training diverged.
        OSError: the line cannot be written.
        SystemExit: a signal ended the training.
    """
    sweep = SWEEPS[name]
    trainer = Trainer(sweep.model_config(model), sweep.training_config(model, device), corpus)
    seconds = 0.0

    def timed(record: StepRecord) -> None:
        nonlocal seconds
        seconds += record.seconds
        on_step(record)

    if not trainer.train(timed):
        assert trainer.stopped_by is not None
        raise SystemExit(128 + trainer.stopped_by)
    windows = corpus.validation_windows(sweep.context, WINDOWS_PER_DOMAIN * 128 // sweep.context)
    final = evaluate(trainer.model, windows, len(corpus.domains))
    values = {"sweep": name, **{key: getattr(model, key) for key in Model.__dataclass_fields__}}
    values |= {"learning_rate": sweep.learning_rate(model), "parameters": sweep.parameters(model)}
    values |= {"active": trainer.active_parameters, "total": trainer.num_parameters}
    values |= {"loss": final.loss, "domain_loss": final.domain_loss.tolist()}
    values |= {"seconds": round(seconds, 3), "device": device, "text": text_of(corpus)}
    line = with_checksum(values)
    append_jsonl(path, line)
    return msgspec.convert(line, Result)


def finished(path: Path, name: str) -> dict[Model, Result]:
    """The models of the sweep of this name that the file has.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is damaged, is no model of the sweep, or the models were trained on different texts.
    """
    if not path.exists():
        return {}
    results = [each for each in read_jsonl(path, Result) if each.sweep == name]
    sweep = SWEEPS[name]
    for each in results:
        as_now = math.isclose(each.learning_rate, sweep.learning_rate(each.model), rel_tol=1e-9)
        if each.model not in sweep.models or each.parameters != sweep.parameters(each.model) or not as_now:
            raise ValueError(f"{path}: the {name} sweep has no model {each.model}; use another --out")
    if len({each.text for each in results}) > 1:
        raise ValueError(f"{path}: its models were trained on different texts; use another --out")
    return {each.model: each for each in results}


def cut_torn_line(path: Path) -> None:
    """Remove what a crash left of a last line, or end the line, so that the next one begins anew."""
    if path.exists():
        content = path.read_bytes()
        whole = b"".join(content.splitlines(keepends=True)[: len(read_jsonl(path, Result))])
        ended = whole if whole.endswith(b"\n") or not whole else whole + b"\n"
        if ended != content:
            write_atomically({path: ended})


def text_of(corpus: Corpus) -> str:
    """By which results know their text."""
    return corpus.fingerprint[:16]


def without_seed(model: Model) -> Model:
    """The same with the first seed, to group repetitions."""
    return replace(model, seed=0)
