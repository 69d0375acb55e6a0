"""Rows that several experts of one rank want: each travels there once, and is copied on arrival.

    C_sr    distinct tokens of rank s with an expert on rank r: the rows that travel
    A_sr    their assignments: the rows that would

With a row goes a bit for each slot of the rank, set where the slot wants it. Rows are sorted by token, so the bits tell
the order of the copies too, and no counts or ids travel.

What travels the other way is not equal for the assignments of a token. With ``sums`` each rank adds up what belongs to
one token before it travels, C_sr rows again. Sums of another order have other last bits, so the default is not to.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..kernels import add_rows, take_rows, to_host
from ..typing import Array, Float, Int
from .communicator import Pending, Then
from .exchange import Holding, Route


@dataclass(frozen=True, eq=False)
class Copies:
    """How the rows of tokens get to the ranks of their experts.

    Attributes:
        once: the way of distinct rows.
        each: the way of all assignments, as without copies.
        distinct: the tokens whose rows leave, by rank, then by token.
        copy: which of the rows that came each row is that is wanted.
        token: of the assignments.
        num_tokens: T.
        sums: whether gradients are added up before they travel.
    """

    once: Route
    each: Route
    distinct: Int[Array, " C"]
    copy: Int[Array, " M"]
    token: Int[Array, " N"]
    num_tokens: int
    sums: bool

    @property
    def num_come(self) -> int:
        """Rows that come, not copied."""
        return sum(self.once.receive)

    def there(self, x: Float[Array, "T d"], kind: str) -> Pending:
        """r_m = x_t: the rows of tokens, copied where they are wanted."""
        return Then(self.once.there(take_rows(x, self.distinct), kind), lambda rows: take_rows(rows, self.copy))

    def back(self, grad: Float[Array, "M d"], kind: str) -> Pending:
        """dx_t = Σ dr_m over the copies of x_t; with ``sums`` those of one rank first."""
        if self.sums:
            pending, token = self.once.back(add_rows(grad, self.copy, self.num_come), kind), self.distinct
        else:
            pending, token = self.each.back(grad, kind), self.token
        return Then(pending, lambda rows: add_rows(rows, token, self.num_tokens))


def copies_of(
    holding: Holding, expert: Int[Array, " N"], token: Int[Array, " N"], first_token: int, num_tokens: int
) -> tuple[Copies, Int[Array, " W1"], dict[str, Any]]:
    """The way of this rank's tokens, the offsets of the copies, and what leaves, for the tally.

    All ranks call it; the arguments are those of :meth:`Holding.route`, and T.
    """
    communicator, slots, xp = holding.communicator, holding.slots, array_namespace(expert)
    rank, size, widths = communicator.rank, communicator.size, np.diff(slots.offsets)
    slot = holding.slot_of(expert, token + first_token)
    of_slots = np.bincount(to_host(slot), minlength=len(slots.slot_expert))
    to = slots.slot_rank[to_host(slot)]
    pairs, pair = np.unique(to * max(num_tokens, 1) + to_host(token), return_inverse=True)
    leave = np.bincount(pairs // max(num_tokens, 1), minlength=size)
    ones = [1] * size
    come = communicator.exchange(leave, ones, ones, "counts").tolist()
    wanted = np.zeros((len(pairs), max(widths.max(), 1)), bool)
    wanted[pair, to_host(slot) - slots.offsets[to]] = True
    bits = [np.packbits(rows[:, :w], axis=1) for rows, w in zip(_cut(wanted, leave), widths, strict=True)]
    bytes_of = -(-widths // 8)
    flat = np.concatenate([b.reshape(-1) for b in bits])
    own = int(bytes_of[rank])
    flat = communicator.exchange(flat, (leave * bytes_of).tolist(), [n * own for n in come], "masks")
    asked = np.unpackbits(flat.reshape(sum(come), own), axis=1)[:, : widths[rank]]
    by_source = np.array([rows.sum(axis=0, dtype=np.int64) for rows in _cut(asked, come)]).reshape(size, -1)
    each, offsets = holding.route_of(slot, of_slots, by_source)
    copy = np.nonzero(asked.T)[1]
    distinct = pairs % max(num_tokens, 1)
    once = Route(communicator, leave.tolist(), come)
    sums = holding.deduplicate == "sums"
    copies = Copies(once, each, xp.asarray(distinct), xp.asarray(copy), token, num_tokens, sums)
    return copies, offsets, {"assignments": of_slots, "copies": leave}


def _cut(rows: Any, sizes: Any) -> list[Any]:
    return np.split(rows, np.cumsum(sizes)[:-1])
