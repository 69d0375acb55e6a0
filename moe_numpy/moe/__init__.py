"""Mixture of Experts: each file holds one concept, its formula, forward, backward and module."""

from . import recipes
from .layer import MoE
from .router import Router, RouterConfig, Routing

__all__ = ["MoE", "Router", "RouterConfig", "Routing", "recipes"]
