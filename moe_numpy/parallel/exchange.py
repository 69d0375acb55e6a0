"""Rows to the ranks of their experts, and answers back: all-to-all with a derivative.

Assignments are sorted by slot, then by token (:mod:`placement`), so that each rank's rows lie together. Ranks tell one
another how many rows there are for each slot, then send them. Rows arrive as (source, slot, token); a stable sort to
(slot, source, token) gives experts the order that one process with the whole batch would give them.

The derivative of moving rows is moving them back: dr goes the same way in the other direction.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function
from ..kernels import count, scatter, stable_order, take_rows, to_host
from ..typing import Array, Float, Int, Shaped
from .communicator import Communicator
from .placement import Placement


class Exchange(Function):
    """r'_m = r_n: each row n goes to place m of the rank that asked for it."""

    def forward(self, rows: Float[Array, "N d"], *, route: "Route", kind: str = "rows") -> Float[Array, "M d"]:
        """All ranks together; ``kind`` is how the ledger calls the rows."""
        self.route, self.kind = route, kind
        return route.there(rows, kind)

    def backward(self, grad: Float[Array, "M d"]) -> Any:
        """dr_n = dr'_m: the gradients travel back."""
        return self.route.reverse.there(grad, f"gradients of {self.kind}")


@dataclass(frozen=True, eq=False)
class Route:
    """Which rows go where.

    Attributes:
        communicator: the ranks.
        send, receive: rows to and from each rank.
        leaving: the order in which rows leave; None if they lie in it.
        arriving: the order in which those that came are wanted; None likewise.
    """

    communicator: Communicator
    send: list[int]
    receive: list[int]
    leaving: Int[Array, " N"] | None
    arriving: Int[Array, " M"] | None

    def there(self, rows: Shaped[Array, "N *rest"], kind: str) -> Shaped[Array, "M *rest"]:
        """The rows where they are wanted."""
        rows = rows if self.leaving is None else take_rows(rows, self.leaving)
        rows = self.communicator.exchange(rows, self.send, self.receive, kind)
        return rows if self.arriving is None else take_rows(rows, self.arriving)

    @cached_property
    def reverse(self) -> "Route":
        """The way back."""
        return Route(self.communicator, self.receive, self.send, _inverse(self.arriving), _inverse(self.leaving))


@dataclass(frozen=True, eq=False)
class Holding:
    """The experts of one layer on several ranks, as one of these sees them.

    Attributes:
        communicator: the ranks.
        placement: who holds which expert.
        num_home: experts after those of the placement, which every rank has and no row travels to.
    """

    communicator: Communicator
    placement: Placement
    num_home: int = 0

    @property
    def held(self) -> tuple[int, ...]:
        """The experts that this rank holds, without those at home."""
        return self.placement.experts[self.communicator.rank]

    @cached_property
    def _all(self) -> Placement:
        """With those at home, which are the last of every rank."""
        num = self.placement.num_experts
        home = tuple(range(num, num + self.num_home))
        return Placement(tuple(held + home for held in self.placement.experts), num + self.num_home)

    def route(
        self, expert: Int[Array, " N"], token: Int[Array, " N"], first_token: int
    ) -> tuple[Route, Int[Array, " W1"]]:
        """The way of this rank's assignments, and the offsets of the rows that come: W slots are on this rank.

        Args:
            expert, token: of the assignments, by expert, then by token.
            first_token: the index of this rank's first token in the batch of all ranks.
        """
        xp, rank, size = array_namespace(expert), self.communicator.rank, self.communicator.size
        slot, num_slots = self._slot(expert, token + first_token), len(self._all.slot_expert)
        leave = count(slot, num_slots)
        widths = np.diff(self._all.offsets).tolist()
        come = self.communicator.exchange(leave, widths, [widths[rank]] * size, "counts")
        both = to_host(xp.concat([leave, come]))  # all that a GPU is waited for here; on the way back, for nothing
        of_slots, come = both[:num_slots], both[num_slots:].reshape(size, -1)
        send = np.add.reduceat(np.append(of_slots, 0), self._all.offsets[:-1]) * (np.array(widths) > 0)
        leaving = None if self._stay_in_order else stable_order(slot, num_slots)
        arriving = xp.asarray(_by_column(come))
        offsets = xp.asarray(np.append(0, np.cumsum(come.sum(axis=0))))
        return Route(self.communicator, send.tolist(), come.sum(axis=1).tolist(), leaving, arriving), offsets

    def _slot(self, expert: Int[Array, " N"], token: Int[Array, " N"]) -> Int[Array, " N"]:
        """Where each assignment goes: an expert at home is the own one."""
        slot = self._all.slot_of(expert, token)
        if not self.num_home:
            return slot
        own = int(self._all.offsets[self.communicator.rank + 1]) - self._all.num_experts
        return array_namespace(expert).where(expert < self.placement.num_experts, slot, own + expert)

    @cached_property
    def _stay_in_order(self) -> bool:
        """Whether assignments in the order of experts are in that of slots."""
        return np.array_equal(self._all.slot_expert, np.arange(self._all.num_experts))


def _by_column(counts: Int[np.ndarray, "R W"]) -> Int[np.ndarray, " M"]:
    """Blocks of ``counts[r, w]`` numbers, from 0 on, listed by r, then by w: the same by w, then by r."""
    ends = np.cumsum(counts).reshape(counts.shape).T.reshape(-1)
    sizes = counts.T.reshape(-1)
    first_of_block = np.repeat(ends - sizes - (np.cumsum(sizes) - sizes), sizes)
    return first_of_block + np.arange(sizes.sum())


def _inverse(order: Int[Array, " N"] | None) -> Int[Array, " N"] | None:
    """The order that undoes an order."""
    return None if order is None else scatter(array_namespace(order).arange(len(order)), order, len(order))
