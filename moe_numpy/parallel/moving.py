"""Experts that change ranks between two steps: their weights travel, and nothing that is computed changes."""

from array_api_compat import array_namespace

from ..typing import Array, Shaped
from .exchange import Holding
from .moves import Move
from .placement import Placement


def moved(
    x: Shaped[Array, "held *rest"], holding: Holding, new: Placement, found: tuple[Move, ...], kind: str
) -> Shaped[Array, "holds *rest"]:
    """An array with an entry for each expert of this rank, in the new placement. All ranks call it.

    Args:
        x: the same in the present placement.
        holding: the present placement.
        new: the new one.
        found: from :func:`moves`.
        kind: under which the ledger counts the bytes.
    """
    communicator, rank = holding.communicator, holding.communicator.rank
    place = {e: i for i, e in enumerate(holding.held)}
    leaving = sorted((m for m in found if m.source == rank), key=lambda m: (m.target, m.expert))
    coming = sorted((m for m in found if m.target == rank), key=lambda m: (m.source, m.expert))
    xp = array_namespace(x)
    out = x[xp.asarray([place[m.expert] for m in leaving], dtype=xp.int64)]
    send = [sum(m.target == r for m in leaving) for r in range(communicator.size)]
    receive = [sum(m.source == r for m in coming) for r in range(communicator.size)]
    both = xp.concat([x, communicator.exchange(out, send, receive, kind)])
    place |= {m.expert: len(x) + i for i, m in enumerate(coming)}
    return both[xp.asarray([place[e] for e in new.experts[rank]], dtype=xp.int64)]
