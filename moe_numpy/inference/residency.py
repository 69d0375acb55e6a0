"""Which experts are in which slots: the bookkeeping that the store and the simulator share. It moves no bytes."""

from collections.abc import Sequence

import numpy as np

from ..typing import Array, Int
from .policies import History, Policy


class Residency:
    """``num_slots`` slots for experts of L layers of E, and what is asked of them.

    Args:
        num_layers: L.
        num_experts: E.
        num_slots: how many experts are in memory at most.
        policy: chooses what leaves.

    Attributes:
        history: of all requests.
        slot: of each expert [L, E], -1 for one that is not in memory.
    """

    def __init__(self, num_layers: int, num_experts: int, num_slots: int, policy: Policy):
        self.history = History(num_layers, num_experts)
        self.slot = np.full((num_layers, num_experts), -1, np.int64)
        self.num_slots = num_slots
        self._policy = policy
        self._pinned = np.zeros((num_layers, num_experts), bool)
        self._pinned_layer = -1
        self._free = list(range(num_slots - 1, -1, -1))

    def request(self, layer: int, experts: Sequence[int]) -> list[int]:
        """Give each of these experts a slot and pin it until the next request to another layer, or :meth:`release`.

        Returns:
            Those that were not in memory.

        Raises:
            ValueError: the pinned ones leave too few slots; nothing has changed.
        """
        if layer != self._pinned_layer:
            self.release()
        wanted = np.array(experts, np.int64)
        pinned = np.count_nonzero(self._pinned) + np.count_nonzero(~self._pinned[layer, wanted])
        if pinned > self.num_slots:
            raise ValueError(
                f"layer {layer} needs {pinned} experts in memory at once, there is room for {self.num_slots}: "
                "release() those that have been used, or take them one after the other with each()"
            )
        self._pinned_layer = layer
        self._pinned[layer, wanted] = True
        self.history.request(layer, wanted)
        missing = [e for e in experts if self.slot[layer, e] < 0]
        self._take_slots(layer, missing, ~self._pinned)
        return missing

    def load_ahead(self, layer: int, experts: Sequence[int]) -> list[int]:
        """Give slots to experts before they are asked for, as far as nothing pinned or expected leaves for them.

        Returns:
            Those that came into memory, in this order.
        """
        open_to_all = ~(self._pinned | self.history.expected)
        room = len(self._free) + np.count_nonzero((self.slot >= 0) & open_to_all)
        missing = [e for e in experts if self.slot[layer, e] < 0][:room]
        self._take_slots(layer, missing, open_to_all)
        self.history.touch(layer, np.array(missing, np.int64))
        return missing

    def release(self) -> None:
        """Nothing is in use any more."""
        self._pinned[:] = False

    def drop(self, layer: int, expert: int) -> None:
        """Forget an expert that could not be read."""
        slot = int(self.slot[layer, expert])
        if slot >= 0:
            self.slot[layer, expert] = -1
            self._pinned[layer, expert] = False
            self._free.append(slot)

    def present(self, layer: int) -> list[int]:
        """The experts of a layer that are in memory."""
        return np.flatnonzero(self.slot[layer] >= 0).tolist()

    def _take_slots(self, layer: int, experts: Sequence[int], may_leave: Array) -> None:
        short = len(experts) - len(self._free)
        if short > 0:
            for leaving in self._lowest(short, may_leave):
                self._free.append(int(self.slot.flat[leaving]))
                self.slot.flat[leaving] = -1
        for e in experts:
            self.slot[layer, e] = self._free.pop()

    def _lowest(self, count: int, may_leave: Array) -> Int[Array, " count"]:
        """Which experts leave, as indices of the flattened tables."""
        candidates = np.flatnonzero((self.slot >= 0) & may_leave)
        keys = [key.reshape(-1)[candidates] for key in self._policy(self.history)]
        return candidates[np.lexsort(keys[::-1])[:count]]
