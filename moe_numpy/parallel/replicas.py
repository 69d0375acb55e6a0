"""Experts that several ranks hold: their gradients are added, so that the replicas stay equal."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..typing import Array, Bool, Shaped
from .collectives import sum_in_order
from .exchange import Holding
from .placement import Placement


def first_replicas(placement: Placement) -> list[list[int]]:
    """The experts of each rank that no lower rank holds: every expert once."""
    lower: set[int] = set()
    firsts = []
    for held in placement.experts:
        firsts.append([e for e in held if e not in lower])
        lower |= set(held)
    return firsts


def is_first_replica(holding: Holding) -> Bool[np.ndarray, " held"]:
    """Whether no lower rank holds each of this rank's experts."""
    return np.isin(holding.held, first_replicas(holding.placement)[holding.communicator.rank])


def add_up_replicas(holding: Holding, x: Shaped[Array, "held *rest"], kind: str) -> Shaped[Array, "held *rest"]:
    """The sum of an array of each expert over the ranks that hold it, in their order.

    All ranks call it.
    """
    placement, communicator = holding.placement, holding.communicator
    if placement.counts.max() == 1:
        return x
    held, others = holding.held, placement.experts
    common = [[e for e in held if e in theirs] for theirs in others]  # both lists ascend
    place = {e: i for i, e in enumerate(held)}
    xp = array_namespace(x)
    out = x[xp.asarray([place[e] for experts in common for e in experts], dtype=xp.int64)]
    counts = [len(experts) for experts in common]
    parts = iter(communicator.exchange(out, counts, counts, kind))
    of_experts: dict[int, list[Any]] = {e: [] for e in held}
    for experts in common:
        for e in experts:
            of_experts[e].append(next(parts))
    return xp.stack([sum_in_order(of_experts[e]) for e in held]) if held else x
