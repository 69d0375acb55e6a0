"""The figures that the command line and the notebooks share: each function takes data and returns a Figure."""

from .files import save, show
from .routing import expert_by_byte, expert_by_domain, expert_load, sentence_routing
from .training import Curve, learning_curves, load_over_training

__all__ = [
    "Curve",
    "expert_by_byte",
    "expert_by_domain",
    "expert_load",
    "learning_curves",
    "load_over_training",
    "save",
    "sentence_routing",
    "show",
]
