"""Replicas for experts and ranks for replicas, greedily: where the search for a balance begins.

Who holds what is a matrix here: ``held[r, e]`` is how many replicas of expert e are on rank r.

DeepSeek's balancer EPLB takes the same two steps (DeepSeek-V3 Technical Report 2024, section 3.4.2;
github.com/deepseek-ai/EPLB), but lets replicas of one expert share a rank. What it does about nodes is not here.
"""

import numpy as np

from ..typing import Array, Float, Int


def replica_counts(load: Float[Array, " E"], slots: int, most: int) -> Int[Array, " E"]:
    """n_e: one each, then slot after slot to the expert with the largest load_e / n_e, of those that may have more.

    An expert may have ``most``. No other counts make max_e load_e / n_e smaller. Slots are left over when all experts
    have ``most``.
    """
    counts = np.ones(len(load), np.int64)
    for _ in range(min(slots, most * len(load)) - len(load)):
        counts[np.where(counts < most, load / counts, -1).argmax()] += 1
    return counts


def packed(
    load: Float[Array, " E"], counts: Int[Array, " E"], num_ranks: int, places: int, *, apart: bool = True
) -> Int[Array, "R E"]:
    """Replicas by descending share load_e / n_e, one by one, each to the least loaded rank that may take it.

    A rank may take a replica if it holds fewer than ``places`` and, with ``apart``, none of the same expert. The load
    of a rank is the sum of the shares that it holds. If only ranks with the expert e have room, a full rank takes it,
    the least loaded one without e. In exchange it gives a replica to the first rank with room: of the experts that it
    holds more often than that rank, the one with the smallest share. Ties go to the lowest index, of experts and ranks.

    Args:
        load: of each expert.
        counts: n_e >= 1, replicas of each; Σ n_e <= R · places.
        num_ranks: R.
        places: the most replicas on a rank.
        apart: no rank takes two replicas of one expert; n_e <= R.

    Returns:
        How many replicas of each expert each rank holds.
    """
    share = load / counts
    held = np.zeros((num_ranks, len(load)), np.int64)
    loads = np.zeros(num_ranks)

    def put(e: int, rank: int, replicas: int = 1) -> None:
        held[rank, e] += replicas
        loads[rank] += replicas * share[e]

    for e in np.argsort(-share, kind="stable").tolist():
        for _ in range(counts[e]):
            room = held.sum(axis=1) < places
            allowed = room & (held[:, e] == 0) if apart else room
            if allowed.any():
                put(e, int(np.where(allowed, loads, np.inf).argmin()))
                continue
            full, roomy = int(np.where(held[:, e], np.inf, loads).argmin()), int(room.argmax())
            other = int(np.where(held[full] > held[roomy], share, np.inf).argmin())
            put(other, full, -1)
            put(other, roomy)
            put(e, full)
    return held
