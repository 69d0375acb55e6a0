"""What the ranks that train one model add up.

Each rank has some of the sequences of a batch, the weights of some experts, and all of everything else. The loss is the
mean over the tokens of all ranks; each rank's objective is its share of it:

    L = Σ_r L_r,   L_r = (n_r / n) · mean loss of rank r + (1 / R) · auxiliary loss of all

So gradients are added, never averaged: those of dense parameters over all ranks; those of an expert are whole where it
is, since the rows of all ranks have travelled there, and are added over its replicas only.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..devices import constant_beside
from ..kernels import take_rows
from ..models import Transformer
from ..moe.sharding import share_experts
from ..parallel import Alone, Communicator, Holding
from ..parallel.collectives import add_up, gather, gather_numbers, shares
from ..parallel.replicas import add_up_replicas, is_first_replica
from .optimizers import sum_of_squares


class Ranks:
    """The ranks, as one of them sees them.

    Args:
        communicator: how they reach one another; this rank alone by default.
        experts_across: see :func:`moe_numpy.moe.sharding.share_experts`.
    """

    def __init__(self, communicator: Communicator | None = None, *, experts_across: int | None = None):
        self.communicator = Alone() if communicator is None else communicator
        self.experts_across = experts_across
        self.holdings: dict[str, Holding] = {}

    @property
    def size(self) -> int:
        """R."""
        return self.communicator.size

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.communicator.rank == 0

    def share(self, model: Transformer, capacity_scope: str, balance_scope: str) -> None:
        """Leave this rank its experts; in place."""
        if self.size > 1 or self.experts_across is not None:
            scopes = {"capacity_scope": capacity_scope, "balance_scope": balance_scope}
            across = self.experts_across
            self.holdings = dict(share_experts(model, self.communicator, experts_across=across, **scopes))

    def own(self, num_sequences: int) -> slice:
        """The sequences of this rank."""
        return shares(num_sequences, self.size)[self.communicator.rank]

    def objective(self, loss: Tensor, auxiliary: Tensor | None, num_sequences: int) -> tuple[Tensor, Tensor | None]:
        """L_r in two parts, from the mean loss of this rank's sequences and the auxiliary loss of all."""
        if self.size == 1:
            return loss, auxiliary
        own = self.own(num_sequences)
        weight = (own.stop - own.start) / num_sequences
        return loss * weight, None if auxiliary is None else auxiliary * (1 / self.size)

    def sum_gradients(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the gradients on this rank by those of L."""
        if self.size == 1:
            return
        trained = [(name, p) for name, p in named_parameters if p.requires_grad]
        dense = [p for name, p in trained if name not in self.holdings]
        xp = array_namespace(dense[0].data)
        # an expert layer without tokens on this rank leaves no gradient here, and one elsewhere
        gradients = [xp.zeros_like(p.data) if p.grad is None else p.grad for p in dense]
        for p, gradient in zip(dense, add_up(self.communicator, gradients, "dense gradients"), strict=True):
            p.grad = gradient
        for name, p in trained:
            if name in self.holdings:
                gradient = xp.zeros_like(p.data) if p.grad is None else p.grad
                p.grad = add_up_replicas(self.holdings[name], gradient, "expert gradients")

    def sum_of_squares(self, named_parameters: Iterable[tuple[str, Tensor]]) -> Any:
        """This rank's part of Σ g², so that the sum over ranks counts every gradient once."""
        counted = []
        for name, p in named_parameters:
            if p.grad is None:
                continue
            if name not in self.holdings:
                counted += [p.grad] if self.is_first else []
            else:
                first = np.flatnonzero(is_first_replica(self.holdings[name]))
                all_are = len(first) == len(p.grad)
                counted.append(p.grad if all_are else take_rows(p.grad, constant_beside(p.grad, first)))
        return sum_of_squares(counted)

    def add_up(self, numbers: Any) -> Any:
        """The sum over ranks of an array."""
        return add_up(self.communicator, [numbers], "statistics")[0]

    def first_of(self, number: int) -> int:
        """What the first rank has that has anything but 0; 0 if none does."""
        if self.size == 1:
            return number
        return next((n for (n,) in gather_numbers(self.communicator, [number], "agreement") if n), 0)

    def told(self, text: str) -> str:
        """The text of the first rank."""
        code = np.frombuffer(text.encode() if self.is_first else b"", np.uint8)
        counts = [n for (n,) in gather_numbers(self.communicator, [len(code)], "agreement")]
        return gather(self.communicator, code, counts, "agreement").tobytes().decode()

    def whole(self, name: str, array: Any) -> Any:
        """An array of a checkpoint with the entries of all experts, from those of each rank."""
        holding = self.holdings.get(_parameter(name))
        if holding is None:
            return array
        counts = [len(held) for held in holding.placement.experts]
        everything = gather(self.communicator, array, counts, "checkpoint")
        _, first = np.unique(holding.placement.slot_expert, return_index=True)
        return everything[array_namespace(array).asarray(first)]

    def part(self, name: str, array: Any) -> Any:
        """What this rank needs of an array of a checkpoint."""
        holding = self.holdings.get(_parameter(name))
        return array if holding is None else array[list(holding.held)]


def _parameter(name: str) -> str:
    """The parameter that an array of an optimizer belongs to, or the name itself."""
    kind, _, parameter = name.partition(".")
    return parameter if kind in ("first", "second", "master") else name
