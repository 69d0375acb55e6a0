"""Which expert leaves memory when another needs its place.

A policy looks at the history of requests and returns numbers for all experts, [L, E] each, most significant first. The
expert with the lowest leaves; ties go to the lowest layer, then to the lowest expert. The store and the simulator share
these functions.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..typing import Array

_NEVER = -1


class History:
    """What was asked of L layers of E experts.

    Attributes:
        last_use: when each expert was last asked for or read in advance; -1 for never. Later is higher.
        uses: how often each was asked for.
        turn: how often the model has come to each layer.
        last_turn: the turn of its layer at which each expert was last asked for.
        expected: experts that are guessed to be asked for at the next turn of their layer.
        layer: that was asked last; -1 before the first request.
    """

    def __init__(self, num_layers: int, num_experts: int):
        shape = num_layers, num_experts
        self.last_use = np.full(shape, _NEVER, np.int64)
        self.uses = np.zeros(shape, np.int64)
        self.turn = np.zeros(num_layers, np.int64)
        self.last_turn = np.zeros(shape, np.int64)
        self.expected = np.zeros(shape, bool)
        self.layer = -1
        self._now = 0

    def request(self, layer: int, experts: Sequence[int]) -> None:
        """Experts of a layer are asked for; the guess about this layer has served."""
        if layer != self.layer:
            self.turn[layer] += 1
            self.layer = layer
        self.expected[layer] = False
        for e in experts:
            self.uses[layer, e] += 1
        self.touch(layer, experts)

    def touch(self, layer: int, experts: Sequence[int]) -> None:
        """Experts are used, or read in advance, in this order."""
        turn = self.turn[layer]
        for e in experts:  # few: faster one by one
            self.last_use[layer, e] = self._now
            self.last_turn[layer, e] = turn
            self._now += 1

    def expect(self, layer: int, experts: Sequence[int]) -> None:
        """A guess about the next request to a layer, in place of an earlier one."""
        self.expected[layer] = False
        self.expected[layer, list(experts)] = True


Policy = Callable[[History], tuple[Array, ...]]


def least_recently_used(history: History) -> tuple[Array, ...]:
    """The expert that was not used for the longest time leaves."""
    return (history.last_use,)


def least_frequently_used(history: History) -> tuple[Array, ...]:
    """The expert that was asked for least often since the beginning leaves; of several, the least recently used."""
    return history.uses, history.last_use


def next_layer(history: History) -> tuple[Array, ...]:
    """Least recently used, counted in turns of its own layer, and aware of what comes next.

    Four arrays [L, E], the most significant first; the expert with the lowest numbers leaves. For expert e of layer l:

    1. ``expected``: whether it is guessed. A guess is kept longest.
    2. -(turn_l - last_turn_le): the expert leaves that went unused for the most turns of its layer.
    3. -((l - layer - 1) mod L): layers follow one another in a circle, and the one after ``history.layer`` comes next.
       The expert leaves whose layer has its next turn last.
    4. ``last_use``: the expert leaves whose last use is the longest ago.

    A plain least-recently-used forgets the layers that come next first, since their last turn is the longest ago.
    """
    num_layers = len(history.turn)
    unused = history.turn[:, None] - history.last_turn
    until = (np.arange(num_layers) - history.layer - 1) % num_layers
    return history.expected, -unused, np.broadcast_to(-until[:, None], unused.shape), history.last_use


POLICIES: dict[str, Policy] = {
    "lru": least_recently_used,
    "lfu": least_frequently_used,
    "next-layer": next_layer,
}


def policy_named(name: str) -> Policy:
    """The policy of this name. ValueError if there is none."""
    if name not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {name!r}")
    return POLICIES[name]
