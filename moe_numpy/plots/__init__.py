"""The figures that the command line and the notebooks share: each function takes data and returns a Figure."""

from .caching import hits_over_budget
from .choices import co_activation, explained_by_layer
from .files import save
from .routing import (
    expert_by_byte,
    expert_by_domain,
    expert_by_modality,
    expert_by_position,
    expert_by_token,
    expert_load,
    sentence_routing,
)
from .showing import show, table
from .training import Curve, learning_curves, load_over_training

__all__ = [
    "Curve",
    "co_activation",
    "expert_by_byte",
    "expert_by_domain",
    "expert_by_modality",
    "expert_by_position",
    "expert_by_token",
    "expert_load",
    "explained_by_layer",
    "hits_over_budget",
    "learning_curves",
    "load_over_training",
    "save",
    "sentence_routing",
    "show",
    "table",
]
