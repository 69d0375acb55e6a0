"""The transformer that MoE layers live in, and its dense twin."""

from .config import ModelConfig
from .generation import generate
from .transformer import Output, Transformer
from .transformer_config import TransformerConfig

__all__ = ["ModelConfig", "Output", "Transformer", "TransformerConfig", "generate"]
