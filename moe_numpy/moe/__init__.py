"""Mixture of Experts: each file holds one concept, its formula, forward, backward and module."""

from . import recipes
from .layer import MoE, Recipe
from .make_layer import make_layer
from .router import Router, RouterConfig
from .routing import Batch, Routing
from .soft import SoftMoE
from .tree import HierarchicalMoE

__all__ = [
    "Batch",
    "HierarchicalMoE",
    "MoE",
    "Recipe",
    "Router",
    "RouterConfig",
    "Routing",
    "SoftMoE",
    "make_layer",
    "recipes",
]
