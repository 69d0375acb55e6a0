"""Which kind a query is: logistic regression on hashed features, with calibrated probabilities and abstention.

    p(kind | query) = softmax(W φ(query) / T)

W is trained by this package's autodiff and AdamW; T is fitted on held-out prompts. Two things make it abstain: the most
probable outcome is none of the kinds, or its probability is below a threshold.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import safetensors.numpy

from ..autodiff import Tensor
from ..files import read_regular, write_atomically
from ..nn import Parameter
from ..ops import CrossEntropy, EmbeddingLookup, Sum
from ..training.optimizers import AdamW
from ..training.schedule import WarmupCosine
from ..typing import Array, Float, Int
from .calibration import fit_temperature, log_softmax
from .features import NUM_FEATURES, features
from .kinds import NONE, OUTCOMES
from .prompts import Prompt, prompts
from .splits import TRAIN, VALIDATION

THRESHOLD = 0.5
"""The least probability of a choice: more than that of all other outcomes together."""

_PROMPTS, _VALIDATION_PROMPTS = 3840, 600  # of each outcome
_EPOCHS, _BATCH, _LEARNING_RATE, _WEIGHT_DECAY = 4, 128, 0.1, 0.02
_DROPPED = 0.5  # of features, at random, so that no single one decides (Srivastava et al. 2014)
_SEED = 0

NUM_READ = (1 + _EPOCHS) * _PROMPTS * len(OUTCOMES)
"""How many prompts are read in training, each several times."""


class RouterError(ValueError):
    """A file that holds no router of this version; the message says which and why."""


@dataclass(frozen=True)
class Choice:
    """What the router thinks of a query: a probability for each outcome, and the kind, or None where it abstains."""

    probabilities: dict[str, float]
    kind: str | None
    why: str


@dataclass(frozen=True, eq=False)
class Router:
    """A trained router.

    Attributes:
        weight: W, a row for each feature.
        temperature: T.
        threshold: the least probability of a choice.
    """

    weight: Float[Array, "F K"]
    temperature: float
    threshold: float = THRESHOLD

    @classmethod
    def train(cls, progress: Callable[[int], None] = lambda done: None) -> "Router":
        """Train on generated prompts: some seconds. The same router every time, on one machine.

        Args:
            progress: called with the number of prompts read so far, up to NUM_READ.
        """
        examples = prompts(TRAIN, _PROMPTS, _SEED)
        weight = _fit(examples, progress)
        held_out = prompts(VALIDATION, _VALIDATION_PROMPTS, _SEED)
        uncalibrated = cls(weight, 1.0)
        return cls(weight, fit_temperature(uncalibrated.logits([p.text for p in held_out]), labels(held_out)))

    def logits(self, queries: Sequence[str]) -> Float[Array, "n K"]:
        """W φ / T."""
        rows = [features(query) for query in queries]
        return np.array([values @ self.weight[indices] for indices, values in rows], np.float64) / self.temperature

    def probabilities(self, queries: Sequence[str]) -> Float[Array, "n K"]:
        """Of each outcome, in the order of OUTCOMES."""
        return np.exp(log_softmax(self.logits(queries)))

    def choose(self, query: str) -> Choice:
        """The kind of a query, or that it is none of them."""
        p = dict(zip(OUTCOMES, self.probabilities([query])[0].tolist(), strict=True))
        best = max(OUTCOMES, key=lambda outcome: p[outcome])
        if not query.strip():
            return Choice(p, None, "the query is empty")
        if best == NONE:
            return Choice(p, None, f"it looks like none of the kinds (p = {p[NONE]:.2f})")
        if p[best] < self.threshold:
            return Choice(p, None, f"{best} is most probable, but p = {p[best]:.2f} is below {self.threshold:g}")
        return Choice(p, best, f"{best} is most probable, p = {p[best]:.2f}")

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        about = {"temperature": self.temperature, "threshold": self.threshold, "outcomes": OUTCOMES}
        content = safetensors.numpy.save({"weight": self.weight.astype(np.float32)}, {"router": json.dumps(about)})
        write_atomically({path: content})

    @classmethod
    def load(cls, path: Path) -> "Router":
        """Read :meth:`save` back.

        Raises:
            OSError: there is no such file, or it cannot be read.
            RouterError: it is damaged, or of another version.
        """
        content = read_regular(path)
        try:
            weight = safetensors.numpy.load(content)["weight"]
            size = int.from_bytes(content[:8], "little")
            metadata = msgspec.json.decode(content[8 : 8 + size])["__metadata__"]
            about = msgspec.json.decode(metadata["router"], type=_About)
            if weight.shape != (NUM_FEATURES, len(OUTCOMES)) or about.outcomes != list(OUTCOMES):
                raise ValueError(f"it is of another version, with weights of shape {weight.shape}")
            if weight.dtype != np.float32 or not np.isfinite(weight).all():
                raise ValueError("its weights must be finite and float32")
            return cls(weight, about.temperature, about.threshold)
        except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise RouterError(
                f"{path} holds no router that can be read; delete it, and it is trained again: {error}"
            ) from error


class _About(msgspec.Struct):
    """What a file says of a router beside its weights."""

    temperature: Annotated[float, msgspec.Meta(gt=0)]
    threshold: float
    outcomes: list[str]


def labels(examples: Sequence[Prompt]) -> Int[Array, " n"]:
    """The index of each prompt's kind in OUTCOMES."""
    return np.array([OUTCOMES.index(example.kind) for example in examples])


def _fit(examples: Sequence[Prompt], progress: Callable[[int], None]) -> Float[Array, "F K"]:
    rows = []
    for example in examples:
        rows.append(features(example.text))
        progress(len(rows))
    indices, values = _padded(rows)
    label, rng = labels(examples), np.random.default_rng(_SEED)
    weight = Parameter(np.zeros((NUM_FEATURES + 1, len(OUTCOMES)), np.float32))  # the last row is that of padding
    optimizer = AdamW([("weight", weight)], lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    steps = _EPOCHS * (len(examples) // _BATCH)
    schedule = WarmupCosine(_LEARNING_RATE, steps // 20, steps)
    for step in range(steps):
        batch = rng.integers(len(examples), size=_BATCH)
        kept = values[batch] * (rng.random((_BATCH, indices.shape[1])) >= _DROPPED) / (1 - _DROPPED)
        of_batch: Tensor = EmbeddingLookup.apply(weight, indices[batch])
        logits = Sum.apply(of_batch * kept[..., None].astype(np.float32), axis=1)
        loss = CrossEntropy.apply(logits, label[batch])
        weight.grad = None
        loss.backward()
        optimizer.step(schedule(step))
        progress(len(examples) + (step + 1) * _BATCH)
    return weight.data[:NUM_FEATURES]


def _padded(rows: Sequence[tuple[Any, Any]]) -> tuple[Int[Array, "n f"], Float[Array, "n f"]]:
    width = max(len(indices) for indices, _ in rows)
    indices = np.full((len(rows), width), NUM_FEATURES)
    values = np.zeros((len(rows), width), np.float32)
    for i, (of_row, value) in enumerate(rows):
        indices[i, : len(of_row)], values[i, : len(of_row)] = of_row, value
    return indices, values
