"""Experts on many ranks: how ranks reach one another, which rank holds which expert, and rows that travel there."""

from .communicator import Alone, Communicator
from .exchange import Exchange, Holding
from .gathering import Gather
from .placement import Placement

__all__ = ["Alone", "Communicator", "Exchange", "Gather", "Holding", "Placement"]
