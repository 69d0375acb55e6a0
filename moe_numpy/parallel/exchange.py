"""Rows to the ranks of their experts, and answers back: all-to-all with a derivative.

Assignments are sorted by slot, then by token (:mod:`placement`), so that each rank's rows lie together. Ranks tell one
another how many rows there are for each slot, then send them. Rows arrive as (source, slot, token); a stable sort to
(slot, source, token) gives experts the order that one process with the whole batch would give them.

The derivative of moving rows is moving them back: dr goes the same way in the other direction.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function
from ..kernels import count, scatter, stable_order, take_rows, to_host
from ..typing import Array, Float, Int, Shaped
from .communicator import Communicator, Pending, Then
from .placement import Placement


@runtime_checkable
class Way(Protocol):
    """How rows get to other ranks, and their gradients back."""

    def there(self, rows: Any, kind: str) -> Pending:
        """Send rows; what arrives is in the order of those who asked for it."""

    def back(self, grad: Any, kind: str) -> Pending:
        """Send the gradient of what arrived; what comes is that of the rows."""


class Exchange(Function):
    """r'_m = r_n: each row n goes to place m of the rank that asked for it."""

    def forward(self, rows: Float[Array, "N d"], *, way: Way, kind: str = "rows") -> Float[Array, "M d"]:
        """All ranks together; ``kind`` is how the ledger calls the rows."""
        self.way, self.kind = way, kind
        return way.there(rows, kind).wait()

    def backward(self, grad: Float[Array, "M d"]) -> Any:
        """dr_n = dr'_m: the gradients travel back."""
        return self.way.back(grad, f"gradients of {self.kind}").wait()


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
    leaving: Int[Array, " N"] | None = None
    arriving: Int[Array, " M"] | None = None

    def there(self, rows: Shaped[Array, "N *rest"], kind: str) -> Pending:
        """The rows where they are wanted."""
        rows = rows if self.leaving is None else take_rows(rows, self.leaving)
        pending = self.communicator.begin(rows, self.send, self.receive, kind)
        order = self.arriving
        return pending if order is None else Then(pending, lambda come: take_rows(come, order))

    def back(self, grad: Shaped[Array, "M *rest"], kind: str) -> Pending:
        """The same by the reverse route."""
        return self.reverse.there(grad, kind)

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
        deduplicate: how a row travels that several experts of one rank want: ``"none"``, as often as they are; or once,
            see :mod:`moe_numpy.parallel.copies`, with the same bits (``"exact"``), or with answers and gradients that
            are added before they travel (``"sums"``).
        overlap: whether the layer computes its shared experts while rows travel.
        name: of the layer, for the tally.
    """

    communicator: Communicator
    placement: Placement
    num_home: int = 0
    deduplicate: str = "none"
    overlap: bool = True
    name: str = ""

    @property
    def held(self) -> tuple[int, ...]:
        """The experts that this rank holds, without those at home."""
        return self.placement.experts[self.communicator.rank]

    @cached_property
    def slots(self) -> Placement:
        """The places of the ranks, with those of experts at home, which are the last of every rank."""
        num = self.placement.num_experts
        home = tuple(range(num, num + self.num_home))
        return Placement(tuple(held + home for held in self.placement.experts), num + self.num_home)

    def route(
        self, expert: Int[Array, " N"], token: Int[Array, " N"], first_token: int
    ) -> tuple[Route, Int[Array, " W1"], Int[np.ndarray, " S"]]:
        """The way of this rank's assignments, the offsets of the rows that come, and how many leave for each slot.

        W slots are on this rank.

        Args:
            expert, token: of the assignments, by expert, then by token.
            first_token: the index of this rank's first token in the batch of all ranks.
        """
        xp, rank, size = array_namespace(expert), self.communicator.rank, self.communicator.size
        slot, num_slots = self.slot_of(expert, token + first_token), len(self.slots.slot_expert)
        leave, widths = count(slot, num_slots), np.diff(self.slots.offsets).tolist()
        come = self.communicator.exchange(leave, widths, [widths[rank]] * size, "counts")
        both = to_host(xp.concat([leave, come]))  # all that a GPU is waited for here; on the way back, for nothing
        of_slots, come = both[:num_slots], both[num_slots:].reshape(size, -1)
        return *self.route_of(slot, of_slots, come), of_slots

    def route_of(
        self, slot: Int[Array, " N"], of_slots: Int[np.ndarray, " S"], come: Int[np.ndarray, "R W"]
    ) -> tuple[Route, Int[Array, " W1"]]:
        """The way of this rank's assignments, once it is known how many rows come from each rank.

        A slot is a place for an expert: the slots of all ranks are numbered rank by rank, and rank r has the slots
        ``self.slots.offsets[r]`` ... ``self.slots.offsets[r + 1] - 1``, none where a rank holds no expert. Of S slots W
        are on this rank.

        Rows leave in the order of slots, those of one slot in the order of the list. They arrive by source rank, those
        of a source by slot; experts want them by slot, those of a slot by source.

        Args:
            slot: where each assignment goes; the list is by expert, then by token.
            of_slots: how many of this rank's assignments go to each slot.
            come: come[s, w] rows come from rank s for slot w of this rank.

        Returns:
            The :class:`Route`: rows to each rank (``send``) and from each (``receive``), as lists; ``leaving``, the
            assignments in the order in which they leave, and ``arriving``, the rows that came, numbered as they came,
            in the order in which experts want them. And the offsets [W + 1]: in that order slot w has the rows
            offsets[w] ... offsets[w + 1] - 1.
        """
        xp, starts = array_namespace(slot), self.slots.offsets
        send = np.add.reduceat(np.append(of_slots, 0), starts[:-1]) * (np.diff(starts) > 0)
        leaving = None if self._stay_in_order else stable_order(slot, len(of_slots))
        arriving = xp.asarray(_by_column(come))
        offsets = xp.asarray(np.append(0, np.cumsum(come.sum(axis=0))))
        return Route(self.communicator, send.tolist(), come.sum(axis=1).tolist(), leaving, arriving), offsets

    def note(self, row: Any, gradients: list[str], *, gate_bytes: int = 0, **amounts: Any) -> None:
        """Enter a pass of this layer into the tally.

        Args:
            row: an array of such rows as travel.
            gradients: of what gradients travel back; nothing in evaluation.
            gate_bytes: of a gate weight, where these travel.
            amounts: of this rank.
        """
        placement = [list(held) for held in self.placement.experts]
        described = {"name": self.name, "placement": placement, "home": self.num_home, "deduplicate": self.deduplicate}
        sizes = {"d_model": row.shape[1], "bytes": row.dtype.itemsize, "gate_bytes": gate_bytes}
        self.communicator.ledger.tally.add("layer", {**described, **sizes, "gradients": gradients}, passes=1, **amounts)

    def slot_of(self, expert: Int[Array, " N"], token: Int[Array, " N"]) -> Int[Array, " N"]:
        """Where each assignment goes: an expert at home is the own one."""
        slot = self.slots.slot_of(expert, token)
        if not self.num_home:
            return slot
        own = int(self.slots.offsets[self.communicator.rank + 1]) - self.slots.num_experts
        return array_namespace(expert).where(expert < self.placement.num_experts, slot, own + expert)

    @cached_property
    def _stay_in_order(self) -> bool:
        """Whether assignments in the order of experts are in that of slots."""
        return np.array_equal(self.slots.slot_expert, np.arange(self.slots.num_experts))


def _by_column(counts: Int[np.ndarray, "R W"]) -> Int[np.ndarray, " M"]:
    """Blocks of ``counts[r, w]`` numbers, from 0 on, listed by r, then by w: the same by w, then by r."""
    ends = np.cumsum(counts).reshape(counts.shape).T.reshape(-1)
    sizes = counts.T.reshape(-1).astype(np.intp)  # of 32 bits in a browser, where np.repeat takes no others
    first_of_block = np.repeat(ends - sizes - (np.cumsum(sizes) - sizes), sizes)
    return first_of_block + np.arange(sizes.sum())


def _inverse(order: Int[Array, " N"] | None) -> Int[Array, " N"] | None:
    """The order that undoes an order."""
    return None if order is None else scatter(array_namespace(order).arange(len(order)), order, len(order))
