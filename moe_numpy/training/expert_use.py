"""How each expert is used on held-out text: its load, its gate mass, and the expert that answers most like it."""

from dataclasses import dataclass

import numpy as np

from ..autodiff.arrays import to_host
from ..instruments.layer_inputs import layer_inputs
from ..models import Transformer
from ..moe.merging import output_similarity
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
        inputs: a sample of what the layer gets.
        similarity: the cosine of the answers to it, each pair.
    """

    load: Float[Array, " E"]
    gate_mass: Float[Array, " E"]
    inputs: Float[Array, "T d"]
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
        expert, gate = to_host(asked.expert), to_host(routing.trace.gate.data).astype(np.float64)
        load = np.bincount(expert, minlength=count)[:count]
        mass = np.bincount(expert, gate, minlength=count)[:count]
        sample = x[:: -(-len(x) // _TOKENS)]
        found[i] = ExpertUse(
            load / max(load.sum(), 1), mass / max(mass.sum(), 1e-30), sample, output_similarity(layers[i], sample)
        )
    return found
