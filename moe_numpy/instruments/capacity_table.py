"""Capacities: what the public formulas give for the same numbers, and who is dropped and why."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..moe import Routing
from ..moe.capacity import ROUNDING, Capacity
from .text_table import text_table


@dataclass(frozen=True)
class CapacityRow:
    """One formula.

    Attributes:
        rounding: its name, a key of :data:`moe_numpy.moe.capacity.ROUNDING`.
        capacity: C, places of each expert.
        places: E · C.
        spare: places beyond the k·T assignments that tokens ask for; if negative, that many are dropped even at
            perfect balance.
    """

    rounding: str
    capacity: int
    places: int
    spare: int


@dataclass(frozen=True)
class CapacityTable:
    """The answer of :func:`capacity_table`: T, E, k, the factor, and a row for each formula."""

    num_tokens: int
    num_experts: int
    top_k: float
    factor: float
    rows: tuple[CapacityRow, ...]

    def as_json(self) -> dict[str, Any]:
        """Numbers and strings only."""
        return asdict(self)

    def __str__(self) -> str:
        asked = f"T={self.num_tokens} E={self.num_experts} k={self.top_k:g} factor={self.factor:g}"
        rows = [[row.rounding, row.capacity, row.places, f"{row.spare:+d}"] for row in self.rows]
        return text_table([asked, "C", "E C", "spare"], rows)


def capacity_table(num_tokens: int, num_experts: int, top_k: float, factor: float) -> CapacityTable:
    """C by every public formula.

    Raises:
        ValueError: a number is not positive, or ``top_k`` is above ``num_experts``.
    """
    for name, value in (("num_tokens", num_tokens), ("num_experts", num_experts), ("factor", factor)):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if not 0 < top_k <= num_experts:
        raise ValueError(f"top_k must be in (0, num_experts={num_experts}], got {top_k}")
    rows = []
    for rounding in ROUNDING:
        capacity = Capacity(factor, rounding).size(num_tokens, num_experts, top_k)
        places = num_experts * capacity
        rows.append(CapacityRow(rounding, capacity, places, places - round(top_k * num_tokens)))
    return CapacityTable(num_tokens, num_experts, top_k, factor, tuple(rows))


@dataclass(frozen=True)
class DroppedToken:
    """One assignment that found no place.

    Attributes:
        token: which token, counted through the batch.
        expert: the expert that it asked for.
        rank: 0 if that was its first choice, 1 if its second.
        served: the tokens of the same scope that got the places, in the order of tokens.
        why: the rule that put it behind them, with the numbers that decided.
    """

    token: int
    expert: int
    rank: int
    served: tuple[int, ...]
    why: str

    def __str__(self) -> str:
        return f"token {self.token}, choice {self.rank + 1}: expert {self.expert} is full; {self.why}"


@dataclass(frozen=True)
class DropReport:
    """The answer of :func:`dropped_tokens`: places per expert, assignments asked for, and who found none."""

    capacity: int
    asked: int
    dropped: tuple[DroppedToken, ...]

    def as_json(self) -> dict[str, Any]:
        """Numbers and strings only."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"C={self.capacity}: {len(self.dropped)} of {self.asked} assignments dropped"
        return "\n".join([head, *map(str, self.dropped)])


def dropped_tokens(routing: Routing, capacity: Capacity) -> DropReport:
    """Who would be dropped from a routing under this capacity, and why.

    The routing may come from a router with another capacity or with none: only who asked for whom matters.
    ``drop="random"`` in training draws from the routing's generator and does not repeat what the router drew.
    """
    asked, batch, scores = routing.trace.candidates, routing.trace.batch, routing.trace.scores.data
    num_tokens, num_experts = scores.shape
    scope = capacity.tokens_in_scope(num_tokens, batch)
    size = capacity.size(scope, num_experts, routing.trace.per_token, batch.training)
    fits = capacity.fits(asked, scores, size, batch)
    queue = asked.token // max(scope, 1) * num_experts + asked.expert
    dropped = []
    for m in np.flatnonzero(~fits):
        ahead = np.flatnonzero(fits & (queue == queue[m]))
        token, expert, rank = int(asked.token[m]), int(asked.expert[m]), int(asked.rank[m])
        served = tuple(sorted(int(t) for t in asked.token[ahead]))
        why = _why(capacity.drop, batch.training, scores, asked, int(m), ahead)
        dropped.append(DroppedToken(token, expert, rank, served, why))
    return DropReport(size, len(fits), tuple(sorted(dropped, key=lambda d: (d.token, d.rank))))


def _why(drop: str, training: bool, scores: Any, asked: Any, m: int, ahead: Any) -> str:
    """What put candidate m behind those that were served."""
    token, expert, rank = asked.token, asked.expert, asked.rank
    if not len(ahead):
        return "it has no places at all"
    if drop == "random" and training:
        return "the order was drawn at random"
    if drop == "probability":
        lowest = float(scores[token[ahead], expert[ahead]].min())
        return f"its score is {float(scores[token[m], expert[m]]):.4g}, the lowest served has {lowest:.4g}"
    first = int((rank[ahead] < rank[m]).sum())
    rivals = ahead[rank[ahead] == rank[m]]
    reasons = []
    if first:
        reasons.append(f"{first} of {len(ahead)} places went to earlier choices")
    if len(rivals) and drop == "batch_priority":
        best = scores.max(axis=1)
        lowest = float(best[token[rivals]].min())
        reasons.append(f"its best score is {float(best[token[m]]):.4g}, the lowest served has {lowest:.4g}")
    elif len(rivals):
        reasons.append(f"token{'s' * (len(rivals) > 1)} {', '.join(str(int(t)) for t in token[rivals])} came before it")
    return "; ".join(reasons)
