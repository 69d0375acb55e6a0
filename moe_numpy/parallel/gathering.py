"""Rows of all ranks on every rank, for routers that look at a whole batch: all-gather with a derivative."""

from collections.abc import Sequence
from typing import Any

from ..autodiff import Function
from ..typing import Array, Float
from .collectives import gather, scatter_sum
from .communicator import Communicator


class Gather(Function):
    """X = [x⁰; x¹; ...]: the rows of all ranks, by rank."""

    def forward(
        self, x: Float[Array, "n E"], *, communicator: Communicator, counts: Sequence[int], kind: str
    ) -> Float[Array, "N E"]:
        """``counts`` says how many rows each rank has."""
        self.communicator, self.counts, self.kind = communicator, counts, kind
        return gather(communicator, x, counts, kind)

    def backward(self, grad: Float[Array, "N E"]) -> Any:
        """dx = Σ over the ranks of the part of dX that is this rank's: each has its own use of X."""
        return scatter_sum(self.communicator, grad, self.counts, f"gradients of {self.kind}")
