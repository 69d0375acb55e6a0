"""Modules: trainable parts of a model. None of them knows what an expert is."""

from .attention import Attention, AttentionParts
from .cache import KeyValueCache
from .embedding import Embedding
from .feed_forward import FeedForward
from .latent_attention import LatentAttention, LatentParts
from .linear import Linear
from .matrix_linear import MatrixLinear
from .module import Buffer, Module, Parameter
from .norms import LayerNorm, RMSNorm
from .padding import Padding
from .patch_embedding import PatchEmbedding
from .rotary import Rotary

__all__ = [
    "Attention",
    "AttentionParts",
    "Buffer",
    "Embedding",
    "FeedForward",
    "KeyValueCache",
    "LatentAttention",
    "LatentParts",
    "LayerNorm",
    "Linear",
    "MatrixLinear",
    "Module",
    "Padding",
    "Parameter",
    "PatchEmbedding",
    "RMSNorm",
    "Rotary",
]
