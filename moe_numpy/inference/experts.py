"""The experts of one layer as matrices in some format, and what they answer."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .. import ops
from ..formats import Stack, quantise
from ..formats.bfloat16 import BFloat16Matrix
from ..formats.float32 import Float32Matrix
from ..kernels import kernel, sort_by_key
from ..moe.experts import ClampedSwiGLU, GptOssExperts, MLPExperts, SwiGLUExperts, WithZeroExperts
from ..typing import Array, Float, Int
from .expert_tables import ExpertTable, ExpertTables
from .maps import format_for

FEW = 32  # rows, which need not be sorted by expert


@runtime_checkable
class Experts(Protocol):
    """What a layer asks of its experts."""

    def __call__(self, x: Float[np.ndarray, "N d"], experts: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N d"]:
        """f_{e_n}(x_n) for each row, whatever the others."""


class StackedExperts:
    """y = W₂ act(W₁ x + b₁) + b₂ with the matrices of all experts in two stacks.

    Programs take :meth:`tables`; called by itself where a router chooses no fixed number, and beside zero experts.

    Args:
        first: W₁ of each expert; for SwiGLU its two matrices above one another.
        second: W₂ of each.
        activation: from the rows W₁ x + b₁ to those that W₂ takes.
        biases: b₁ and b₂ of each expert, or None.
    """

    def __init__(self, first: Stack, second: Stack, activation: Callable[[Any], Any], biases: Any = (None, None)):
        self.first, self.second, self.activation = first, second, activation
        self.biases = [None if b is None else np.asarray(b, np.float32) for b in biases]

    def __call__(self, x: Float[np.ndarray, "N d"], experts: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N d"]:
        if len(x) <= FEW:
            return self._rows(x, experts, (self.first.rows_by_experts, self.second.rows_by_experts), experts)
        order, offsets = sort_by_key(experts, len(self.first))
        groups = self.first.rows_in_groups, self.second.rows_in_groups
        y = np.empty((len(x), self.second.shape[1]), np.float32)
        y[order] = self._rows(x[order], experts[order], groups, offsets)
        return y

    def tables(self) -> ExpertTables:
        """Where the matrices are."""
        first, second = ([stack[e] for e in range(len(stack))] for stack in (self.first, self.second))
        biases = [None if b is None else np.ascontiguousarray(b) for b in self.biases]
        return ExpertTables(
            [ExpertTable(first, bias=biases[0])], [ExpertTable(second, bias=biases[1])], self.activation,
            self.activation is swiglu_of_halves,
        )  # fmt: skip

    def _rows(self, x: Any, experts: Any, products: Any, by: Any) -> Any:
        h = self._biased(products[0](x, by), self.biases[0], experts)
        return self._biased(products[1](self.activation(h), by), self.biases[1], experts)

    def _biased(self, y: Any, bias: Any, experts: Any) -> Any:
        return y if bias is None else y + bias[experts]


class AndZeroExperts:
    """Real experts, followed by those that return their input."""

    def __init__(self, real: Experts, num_real: int):
        self.real, self.num_real = real, num_real

    def __call__(self, x: Float[np.ndarray, "N d"], experts: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N d"]:
        y, real = x.copy(), experts < self.num_real
        if real.any():
            y[real] = self.real(x[real], experts[real])
        return y


@kernel
def swiglu_of_halves(h: Float[Array, "N two_f"]) -> Float[Array, "N f"]:
    """silu(gate) ⊙ up of the halves of each row."""
    f = h.shape[1] // 2
    return ops.SwiGLU.compute(h[:, :f], h[:, f:])


# Of each kind of expert: the names of its two matrices, and what lies between them.
ACTIVATIONS: dict[str, tuple[tuple[str, str], Callable[..., Any]]] = {
    "swiglu": (("gate_up", "down"), swiglu_of_halves),
    "gpt_oss": (("gate_up", "down"), ClampedSwiGLU.compute),
    "relu": (("first", "second"), ops.ReLU.compute),
    "gelu": (("first", "second"), ops.GELU.compute),
}


def experts_of(layer: Any, format: str | None = None) -> Experts:
    """The experts of a layer: in the format of its weights, which may be in files, or in another, in memory."""
    if isinstance(layer, WithZeroExperts):
        return AndZeroExperts(experts_of(layer.real, format), layer.num_real)
    if hasattr(layer, "matrices"):
        return layer.matrices if format is None else layer.matrices.stacked(format)
    kind = next(kind for kind, made in _KINDS.items() if isinstance(layer, made))
    if isinstance(layer, MLPExperts):
        kind = "relu" if layer.activation is ops.ReLU else "gelu"
    names, activation = ACTIVATIONS[kind]
    biases = [getattr(layer, f"{name}_bias", None) for name in names]
    first, second = (_stack(getattr(layer, name).data, format) for name in names)
    if kind == "gpt_oss":
        activation = partial(activation, **layer.activation)
    return StackedExperts(first, second, activation, [None if b is None else b.data for b in biases])


_KINDS = {"swiglu": SwiGLUExperts, "gpt_oss": GptOssExperts, "relu": MLPExperts}


def _stack(weights: Any, format: str | None) -> Stack:
    """All experts' matrices in a format, or as they are."""
    if format is not None:
        return quantise(weights, format_for(weights.shape[-1], format))
    if weights.dtype.name == "bfloat16":
        return Stack(BFloat16Matrix, {"bits": weights.view(np.uint16)})
    return Stack(Float32Matrix, {"weights": np.ascontiguousarray(weights, np.float32)})
