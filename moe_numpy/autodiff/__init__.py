"""The engine: reverse-mode differentiation of array code. Nothing in here knows what an expert is."""

from . import decisions
from .function import Function, substitute
from .modes import NonFiniteError, check_finite, no_grad
from .tensor import Tensor

__all__ = ["Function", "NonFiniteError", "Tensor", "check_finite", "decisions", "no_grad", "substitute"]
