"""Experts on many ranks: where each expert's weights are, and how that is balanced."""

from .placement import Placement

__all__ = ["Placement"]
