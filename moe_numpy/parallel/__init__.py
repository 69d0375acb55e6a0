"""Experts on many ranks: how ranks reach one another, which rank holds which expert, and rows that travel there."""

from .balancing import balance, lower_bound, rebalance
from .communicator import Alone, Communicator
from .exchange import Exchange, Holding
from .gathering import Gather
from .moves import Move, matched, moves
from .placement import Placement

__all__ = [
    "Alone",
    "Communicator",
    "Exchange",
    "Gather",
    "Holding",
    "Move",
    "Placement",
    "balance",
    "lower_bound",
    "matched",
    "moves",
    "rebalance",
]
