"""Which token's output depends on which token's input, found by exchanging tokens one at a time."""

from dataclasses import dataclass

import numpy as np

from ..autodiff import no_grad
from ..moe import Recipe, RouterConfig
from ..typing import Array, Float
from .probe import Probe, as_recipe

# A different order of sums moves outputs by about 1e-15, a different choice by about 1.
THRESHOLD = 1e-9


@dataclass(frozen=True)
class Pair:
    """Evidence: exchanging token ``changed`` moved the output at ``moved``; both are [sequence, position].

    ``change`` is the largest move of an entry, relative to the largest entry of the whole output.
    """

    changed: tuple[int, int]
    moved: tuple[int, int]
    change: float

    def __str__(self) -> str:
        (a, s), (b, t) = self.changed, self.moved
        where = f"at {t}" if a == b else f"at {t} of sequence {b}"
        source = f"token {s}" if a == b else f"token {s} of sequence {a}"
        return f"exchanging {source} moves the output {where} by {100 * self.change:.3g} %"


@dataclass(frozen=True)
class Influence:
    """``change[s, t]``: the largest relative move of output t in any probe that exchanged token s.

    Tokens are counted through the batch; ``sequence_length`` of them are one sequence.
    """

    change: Float[Array, "T T"]
    sequence_length: int
    probes: int

    def strongest(self, pairs: Array) -> Pair | None:
        """The pair (s, t) with the largest move among those marked in ``pairs`` [T, T]; None if none moved."""
        marked = np.where(pairs, self.change, 0)
        s, t = np.unravel_index(int(marked.argmax()), marked.shape)
        if marked[s, t] <= THRESHOLD:
            return None
        n = self.sequence_length
        return Pair((int(s) // n, int(s) % n), (int(t) // n, int(t) % n), float(marked[s, t]))

    @property
    def same_sequence(self) -> Array:
        """Bool[T, T]: pairs of one sequence."""
        sequence = np.arange(len(self.change)) // self.sequence_length
        return sequence[:, None] == sequence[None, :]


def influence(
    recipe: Recipe | RouterConfig, *, training: bool = False, num_experts: int = 16, seeds: int = 4
) -> Influence:
    """Exchange every token of small random batches by another and look at all outputs.

    Args:
        recipe: what to probe. Settings must suit ``num_experts``.
        training: probe with noise and balancing on; the noise is the same before and after.
        num_experts: E.
        seeds: how many random layers, each with spread and with crowded tokens.
    """
    probes = [
        Probe(as_recipe(recipe), seed=seed, training=training, crowded=crowded, num_experts=num_experts)
        for seed in range(seeds)
        for crowded in (False, True)
    ]
    num_tokens, length = probes[0].x[..., 0].size, probes[0].sequence_length
    change = np.zeros((num_tokens, num_tokens))
    for probe in probes:
        change = np.maximum(change, _changes(probe))
    return Influence(change, length, len(probes) * num_tokens)


@no_grad()
def _changes(probe: Probe) -> Float[Array, "T T"]:
    layer = probe.layer()
    rng = np.random.default_rng([probe.seed, 5])
    before = probe.run(layer)[0].data
    rows = []
    for b, s in np.ndindex(probe.token_ids.shape):
        x, ids = probe.x.copy(), probe.token_ids.copy()
        x[b, s], ids[b, s] = probe.tokens(rng), probe.ids(rng)
        after = probe.run(layer, x, ids)[0].data
        rows.append(np.abs(after - before).max(axis=2).reshape(-1))
    return np.stack(rows) / np.abs(before).max()
