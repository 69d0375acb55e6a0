"""From logits to the next token, and the probabilities that are told."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..kernels import top_k
from ..models.generation import draw
from ..typing import Array, Float


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: see :func:`moe_numpy.models.generation.sampling_probabilities`.
        top_p: likewise.
        bias: added to the logits of some tokens first.
        seed: of the draws; None for one that nobody knows.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def generators(self, count: int) -> list[np.random.Generator]:
        """One for each answer to a prompt. The first is that of ``--seed`` of the command ``generate``."""
        seed = np.random.SeedSequence(None if self.seed is None else self.seed % 2**64)
        return [np.random.default_rng(each) for each in (seed, *seed.spawn(count - 1))]

    def draw(self, logits: Float[Array, " V"], rng: np.random.Generator) -> int:
        """The next token. NonFiniteError if a logit is NaN or infinite."""
        if self.bias:
            logits = logits.copy()
            logits[list(self.bias)] += np.array(list(self.bias.values()), logits.dtype)
        return draw(logits, self.temperature, self.top_p, rng)


@dataclass(frozen=True)
class LogProbability:
    """ln p of a token under the model, before bias, temperature and top_p; and the most likely tokens there."""

    value: float
    top: tuple[tuple[int, float], ...]


def log_probability(logits: Float[Array, " V"], token: int, top: int) -> LogProbability:
    """ln softmax(logits) of a token, and of the ``top`` largest, best first."""
    x = logits.astype(np.float64) - logits.max()
    x -= np.log(np.exp(x).sum())
    best = top_k(x[None], top)[0].tolist() if top else []
    return LogProbability(float(x[token]), tuple((e, float(x[e])) for e in best))
