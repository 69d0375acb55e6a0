"""Experts on many ranks: where each expert's weights are, how that is balanced, and what is copied for it."""

from .balancing import balance, lower_bound, rebalance
from .moves import Move, matched, moves
from .placement import Placement

__all__ = ["Move", "Placement", "balance", "lower_bound", "matched", "moves", "rebalance"]
