"""Where experts go so that no rank has much more to do than another, and few must be copied to get there.

To find the best placement is NP-hard: without replicas it is the packing of weights into bins. This is a heuristic:
greedy packing (packing.py), then a local search (placement_search.py). Certain is that every expert has a place, that
no rank holds an expert twice, and that the largest load is not above that of the packing. How near it comes to
:func:`lower_bound` is measured by benchmarks/placement.py.

The same call gives the same placement on one machine. On another processor sums may round differently: let one rank
compute it and send it to the others.
"""

import numpy as np

from ..typing import Array, Float, Shaped
from .moves import matched
from .packing import packed, replica_counts
from .placement import Placement
from .placement_search import Balance, search, with_fewer_copies

_NEAR = 2e-3  # above the lower bound, relative: the search ends
_ROUNDS = 100
_ROUNDING = 1e-12


def lower_bound(load: Shaped[Array, " E"], num_ranks: int, places: int) -> float:
    """What the largest load of a rank is at least: max(Σ load / R, max_e load_e / n_e).

    n are the counts, Σ n_e <= R · places and n_e <= R, for which the second term is smallest. It says nothing about
    whether the replicas can be put together so well.
    """
    load = _checked(load, num_ranks, places)
    return _lower_bound(load, num_ranks, min(places, len(load)))


def balance(load: Shaped[Array, " E"], num_ranks: int, places: int, *, rounds: int = _ROUNDS) -> Placement:
    """A placement whose largest rank load is small.

    At most that of greedy packing with replicas kept apart. Where EPLB keeps them apart by itself, it packs the same.

    Args:
        load: of each expert, in any unit; its replicas share it evenly.
        num_ranks: R.
        places: the most experts on a rank; R · places >= E.
        rounds: of the search; more take longer and may find better placements.

    Raises:
        ValueError: a load is negative or not finite, or there are fewer places than experts.
    """
    load = _checked(load, num_ranks, places)
    return Placement.from_matrix(_fresh(load, num_ranks, min(places, len(load)), rounds).held)


def rebalance(
    load: Shaped[Array, " E"], present: Placement, places: int, *, tolerance: float = 0.01, rounds: int = _ROUNDS
) -> Placement:
    """A placement whose largest rank load is small, and to which few experts must be copied.

    Two ways compete: a new balance whose sets of experts go to the ranks that hold most of them already
    (:func:`matched`), and a search that begins at the present placement. Of those within the tolerance, the one with
    fewer copies wins, after copies that are not needed were taken back. Only the matching is proven to be best.

    Args:
        load: of each expert.
        present: the placement now.
        places: the most experts on a rank. ``present`` may have more.
        tolerance: how far the largest load may be above that of the new balance, relative, to save copies. It does not
            rise above what greedy packing reaches if replicas may share a rank, as in EPLB, unless the new balance is
            above that too.
        rounds: of each search.

    Raises:
        ValueError: as for :func:`balance`, the load is for another number of experts than ``present``, or the tolerance
            is negative.
    """
    load = _checked(load, present.num_ranks, places)
    if len(load) != present.num_experts:
        raise ValueError(f"load must have one entry for each of {present.num_experts} experts, got {len(load)}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    num_ranks = present.num_ranks
    greedy = _greedy_load(load, num_ranks, places)
    places = min(places, len(load))  # for replicas that are kept apart
    fresh = _fresh(load, num_ranks, places, rounds)
    least = fresh.loads.max()
    limit = max(least, min((1 + tolerance) * least, greedy)) * (1 + _ROUNDING)
    found = [Balance(matched(Placement.from_matrix(fresh.held), present).held, load, places)]
    if present.held.sum(axis=1).max() <= places:
        near = search(Balance(present.held, load, places), limit, rounds, np.random.default_rng(0))
        if near.loads.max() <= limit:
            found.append(near)
    frugal = [with_fewer_copies(new, present.held, limit) for new in found]
    return Placement.from_matrix(min(frugal, key=lambda new: new.copies(present.held)).held)


def _checked(load: Shaped[Array, " E"], num_ranks: int, places: int) -> Float[Array, " E"]:
    load = np.asarray(load, np.float64)
    if load.ndim != 1 or not len(load):
        raise ValueError(f"load must have one entry for each expert, got shape {load.shape}")
    bad = np.flatnonzero(~(np.isfinite(load) & (load >= 0)))
    if len(bad):
        raise ValueError(f"load must be finite and not negative, got {load[bad[0]]} for expert {bad[0]}")
    for name, number in (("num_ranks", num_ranks), ("places", places)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if num_ranks * places < len(load):
        raise ValueError(f"{num_ranks} ranks with {places} places each have no room for {len(load)} experts")
    return load


def _lower_bound(load: Float[Array, " E"], num_ranks: int, places: int) -> float:
    counts = replica_counts(load, num_ranks * places, num_ranks)
    return float(max(load.sum() / num_ranks, (load / counts).max()))


def _greedy_load(load: Float[Array, " E"], num_ranks: int, places: int) -> float:
    """The largest load of a rank after packing in which replicas may share a rank, as in EPLB."""
    slots = num_ranks * places
    counts = replica_counts(load, slots, slots)
    return float((packed(load, counts, num_ranks, places, apart=False) @ (load / counts)).max())


def _fresh(load: Float[Array, " E"], num_ranks: int, places: int, rounds: int) -> Balance:
    counts = replica_counts(load, num_ranks * places, num_ranks)
    bound = _lower_bound(load, num_ranks, places)
    goal = min((1 + _NEAR) * bound, _greedy_load(load, num_ranks, places)) * (1 + _ROUNDING)
    start = Balance(packed(load, counts, num_ranks, places) > 0, load, places)
    return search(start, goal, rounds, np.random.default_rng(0))
