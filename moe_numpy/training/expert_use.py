"""How each expert is used on held-out text: load, gate mass, contribution, and which other answers most like it."""

from dataclasses import dataclass

import numpy as np

from ..autodiff.arrays import to_host
from ..instruments.layer_inputs import layer_inputs
from ..models import Transformer
from ..moe.merging import answers_of, output_similarity
from ..typing import Array, Float
from .corpus import Corpus
from .expert_patterns import moe_layers

_WINDOWS = 8  # per domain
_TOKENS = 2048  # whose answers are compared


@dataclass(frozen=True, eq=False)
class ExpertUse:
    """The E experts of one layer.

    Attributes:
        load: each one's share of the assignments.
        gate_mass: each one's share of the gate weights.
        contribution: the mean of g ‖f_e(x)‖ over the tokens of a sample that chose expert e; 0 if none did. Lasby et
            al. 2025, REAP the Experts (arXiv 2510.13999), equation 9.
        similarity: the cosine of the answers to the sample, each pair.
    """

    load: Float[Array, " E"]
    gate_mass: Float[Array, " E"]
    contribution: Float[Array, " E"]
    similarity: Float[Array, "E E"]

    def nearest(self, e: int) -> tuple[int, float]:
        """The expert most similar to e, and the cosine."""
        row = self.similarity[e].copy()
        row[e] = -np.inf
        other = int(row.argmax())
        return other, float(row[other])


def expert_use(model: Transformer, corpus: Corpus) -> dict[int, ExpertUse]:
    """By the number of each MoE layer, on windows of all domains."""
    windows = corpus.validation_windows(model.context, limit=_WINDOWS)
    layers = moe_layers(model)
    found = {}
    for i, (x, routing) in layer_inputs(model, windows.tokens).items():
        count, asked = layers[i].num_experts, routing.trace.candidates
        token, expert, gate = map(to_host, (asked.token, asked.expert, routing.trace.gate.data))
        real, every = expert < count, -(-len(x) // _TOKENS)
        token, expert, gate = token[real], expert[real], gate[real].astype(np.float64)
        load, mass = np.bincount(expert, minlength=count), np.bincount(expert, gate, minlength=count)
        answers = answers_of(layers[i], x[::every])
        sampled = token % every == 0
        size = np.linalg.norm(answers, axis=2)[expert[sampled], token[sampled] // every]
        total = np.bincount(expert[sampled], gate[sampled] * size, minlength=count)
        contribution = total / np.maximum(np.bincount(expert[sampled], minlength=count), 1)
        shares = load / max(load.sum(), 1), mass / max(mass.sum(), 1e-30)
        found[i] = ExpertUse(*shares, contribution, output_similarity(answers))
    return found
