"""Which experts are in which slots: the bookkeeping that the store and the simulator share. It moves no bytes."""

from collections.abc import Sequence

import numpy as np

from ..typing import Array, Bool
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
        slot: by layer and expert; -1 for one that is not in memory.
    """

    def __init__(self, num_layers: int, num_experts: int, num_slots: int, policy: Policy):
        self.history = History(num_layers, num_experts)
        self.slot = [[-1] * num_experts for _ in range(num_layers)]
        self.num_slots = num_slots
        self._policy = policy
        self._present = np.zeros((num_layers, num_experts), bool)
        self._pinned: set[int] = set()  # experts of one layer
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
        pinned = self._pinned.union(experts)
        if len(pinned) > self.num_slots:
            raise ValueError(
                f"layer {layer} needs {len(pinned)} experts in memory at once, there is room for {self.num_slots}: "
                "release() those that have been used, or take them one after the other with each()"
            )
        self._pinned, self._pinned_layer = pinned, layer
        self.history.request(layer, experts)
        slots = self.slot[layer]
        missing = [e for e in experts if slots[e] < 0]
        if missing:
            self._take_slots(layer, missing, self._may_leave())
        return missing

    def load_ahead(self, layer: int, experts: Sequence[int]) -> list[int]:
        """Give slots to experts before they are asked for, as far as nothing pinned or expected leaves for them.

        Returns:
            Those that came into memory, in this order.
        """
        slots = self.slot[layer]
        missing = [e for e in experts if slots[e] < 0]
        if missing:
            may_leave = self._may_leave() & ~self.history.expected
            missing = missing[: len(self._free) + np.count_nonzero(may_leave)]
            self._take_slots(layer, missing, may_leave)
            self.history.touch(layer, missing)
        return missing

    def release(self) -> None:
        """Nothing is in use any more."""
        self._pinned = set()

    def drop(self, layer: int, expert: int) -> None:
        """Forget an expert that could not be read."""
        if self.slot[layer][expert] >= 0:
            self._pinned.discard(expert)
            self._leave(layer, expert)

    def present(self, layer: int) -> list[int]:
        """The experts of a layer that are in memory."""
        return np.flatnonzero(self._present[layer]).tolist()

    def _may_leave(self) -> Bool[Array, "L E"]:
        """What is in memory and not pinned."""
        may_leave = self._present.copy()
        may_leave[self._pinned_layer, list(self._pinned)] = False
        return may_leave

    def _take_slots(self, layer: int, experts: Sequence[int], may_leave: Bool[Array, "L E"]) -> None:
        short = len(experts) - len(self._free)
        if short > 0:
            candidates = np.flatnonzero(may_leave)
            keys = [key.reshape(-1)[candidates] for key in self._policy(self.history)]
            for leaving in candidates[np.lexsort(keys[::-1])[:short]].tolist():
                self._leave(*divmod(leaving, may_leave.shape[1]))
        for e in experts:
            self.slot[layer][e] = self._free.pop()
            self._present[layer, e] = True

    def _leave(self, layer: int, expert: int) -> None:
        self._free.append(self.slot[layer][expert])
        self.slot[layer][expert] = -1
        self._present[layer, expert] = False
