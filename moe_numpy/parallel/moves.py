"""What must be copied to get from one placement to another."""

from dataclasses import dataclass

import numpy as np

from .placement import Placement


@dataclass(frozen=True)
class Move:
    """One expert's weights are copied from a rank to another.

    Attributes:
        expert: that is copied.
        source: a rank that holds it before.
        target: the rank that holds it afterwards.
    """

    expert: int
    source: int
    target: int


def matched(new: Placement, present: Placement) -> Placement:
    """The sets of experts of ``new``, given to the ranks so that the fewest experts must be copied.

    An assignment problem, solved exactly (scipy.optimize.linear_sum_assignment): on rank r, a set costs as many copies
    as it has experts that r does not hold. The loads remain those of the sets.

    Raises:
        ValueError: the two have different numbers of experts or ranks.
    """
    from scipy.optimize import linear_sum_assignment  # its import takes as long as all others together

    _require_alike(present, new)
    copies = new.held.astype(np.int64) @ (~present.held).astype(np.int64).T
    _, rank = linear_sum_assignment(copies)
    experts = dict(zip(rank.tolist(), new.experts, strict=True))
    return Placement(tuple(experts[r] for r in range(new.num_ranks)), new.num_experts)


def moves(present: Placement, new: Placement) -> tuple[Move, ...]:
    """What must be copied to get from one placement to the other, by expert, then by target.

    The source is the holder that has sent least so far, of several the nearest by number; experts with few holders
    choose first. What a rank holds no longer needs no move.

    Raises:
        ValueError: the two have different numbers of experts or ranks.
    """
    _require_alike(present, new)
    sent = [0] * present.num_ranks
    found = []
    for e in np.argsort(present.counts, kind="stable").tolist():
        holders = present.ranks_of(e)
        for target in np.flatnonzero(new.held[:, e] & ~present.held[:, e]).tolist():
            _, _, source = min((sent[r], abs(r - target), r) for r in holders)
            sent[source] += 1
            found.append(Move(e, source, target))
    return tuple(sorted(found, key=lambda move: (move.expert, move.target)))


def _require_alike(present: Placement, new: Placement) -> None:
    for name in ("num_experts", "num_ranks"):
        before, after = getattr(present, name), getattr(new, name)
        if before != after:
            raise ValueError(f"{name} must be the same in both placements, got {before} and {after}")
