"""Mixture of Experts from scratch, in NumPy: every derivative written by hand and checked by finite differences."""

from .autodiff import Function, Tensor, no_grad, substitute
from .models import ModelConfig, Transformer, generate
from .moe import MoE, Router, RouterConfig, Routing, SoftMoE, recipes

__version__ = "0.1.0"

__all__ = [
    "Function",
    "MoE",
    "ModelConfig",
    "Router",
    "RouterConfig",
    "Routing",
    "SoftMoE",
    "Tensor",
    "Transformer",
    "generate",
    "no_grad",
    "recipes",
    "substitute",
]
