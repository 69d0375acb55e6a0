"""General differentiable functions, one family a file. Importing this gives Tensor its operators."""

from . import operators  # noqa: F401
from .activations import GELU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, SwiGLU, Tanh
from .arithmetic import Abs, Add, Cast, Clip, Divide, Exp, Log, Multiply, Negate, Power, Sqrt, Subtract, Where
from .attention import CausalAttention, RotaryEmbedding
from .dropout import Dropout
from .embedding import EmbeddingLookup
from .indexing import FillPlaces, GetItem, TakeAlongAxis
from .losses import CrossEntropy
from .matmul import Affine, MatMul, WideAffine
from .normalization import LayerNorm, RMSNorm
from .reductions import LogSumExp, Max, Mean, Min, Sum
from .shape import BroadcastTo, Concatenate, Reshape, Transpose

__all__ = [
    "GELU",
    "Abs",
    "Add",
    "Affine",
    "BroadcastTo",
    "Cast",
    "CausalAttention",
    "Clip",
    "Concatenate",
    "CrossEntropy",
    "Divide",
    "Dropout",
    "EmbeddingLookup",
    "Exp",
    "FillPlaces",
    "GetItem",
    "LayerNorm",
    "Log",
    "LogSoftmax",
    "LogSumExp",
    "MatMul",
    "Max",
    "Mean",
    "Min",
    "Multiply",
    "Negate",
    "Power",
    "RMSNorm",
    "ReLU",
    "Reshape",
    "RotaryEmbedding",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Sqrt",
    "Subtract",
    "Sum",
    "SwiGLU",
    "TakeAlongAxis",
    "Tanh",
    "Transpose",
    "Where",
    "WideAffine",
]
