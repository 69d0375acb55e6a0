"""Modules: trainable parts of a model. None of them knows what an expert is."""

from .attention import Attention
from .cache import KeyValueCache
from .embedding import Embedding
from .feed_forward import FeedForward
from .linear import Linear
from .module import Buffer, Module, Parameter
from .norms import LayerNorm, RMSNorm
from .padding import Padding

__all__ = [
    "Attention",
    "Buffer",
    "Embedding",
    "FeedForward",
    "KeyValueCache",
    "LayerNorm",
    "Linear",
    "Module",
    "Padding",
    "Parameter",
    "RMSNorm",
]
