"""How many bytes of weights decoding reads."""

from dataclasses import dataclass

import numpy as np

from moe_numpy.formats import quantise
from moe_numpy.models import Transformer


@dataclass(frozen=True)
class Weights:
    """Bytes that decoding reads.

    Attributes:
        dense: by every call, whatever its experts.
        expert: by each distinct expert.
        num_layers: with experts.
    """

    dense: float
    expert: float
    num_layers: int

    def of_call(self, experts: float) -> float:
        """With so many distinct experts in each layer."""
        return self.dense + self.num_layers * experts * self.expert


@dataclass(frozen=True)
class Numbers:
    """How many weights a model has, embeddings that are looked up aside.

    Attributes:
        dense: in attention and output.
        kept: in routers, norms and biases.
        expert: in one expert.
        num_experts: in all layers together.
        num_layers: with experts.
    """

    dense: int
    kept: int
    expert: int
    num_experts: int
    num_layers: int

    @classmethod
    def of(cls, model: Transformer) -> "Numbers":
        """Those of a model whose experts are in files."""
        stacks = [s for _, m in model.named_modules() for s in getattr(m, "stacks", ()) if s.ndim == 3]
        kept = dense = 0
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.ndim < 2 or ".router." in name:
                kept += tensor.size
            elif not name.startswith("embedding.") or model.output is None:
                dense += tensor.size
        of_all = sum(int(np.prod(stack.shape)) for stack in stacks)
        num_layers = len(stacks) // 2  # two matrices of each expert
        num_experts = sum(len(stack) for stack in stacks) // 2
        return cls(dense, kept, of_all // num_experts, num_experts, num_layers)

    def stored(self, bits: float, kept_bytes: float = 4) -> Weights:
        """With so many bits a weight."""
        return Weights(self.dense * bits / 8 + self.kept * kept_bytes, self.expert * bits / 8, self.num_layers)


def bits_of(format: str) -> float:
    """Bits a weight, scales included."""
    few = np.zeros((128, 128), np.float32)
    return float(8 * quantise(few, format).nbytes / few.size)
