"""What the ranks that train one model add up.

Each rank has some of the sequences of a batch, the weights of some experts, and all of everything else. The loss is the
mean over the tokens of all ranks; each rank's objective is its share of it:

    L = Σ_r L_r,   L_r = (n_r / n) · mean loss of rank r + (1 / R) · auxiliary loss of all

So gradients are added, never averaged: those of dense parameters over all ranks; those of an expert are whole where it
is, since the rows of all ranks have travelled there, and are added over its replicas only.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..devices import constant_beside
from ..kernels import take_rows
from ..models import Transformer
from ..moe.sharding import share_experts
from ..nn import Parameter
from ..parallel import Alone, Communicator, Holding, Move, Placement, moves
from ..parallel.collectives import add_up, gather_numbers, gather_texts, require_equal, shares
from ..parallel.moving import moved
from ..parallel.replicas import add_up_replicas, is_first_replica
from .freezing import trained_runs
from .optimizers import AdamW, sum_of_squares
from .run_ledger import RunLedger


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
        self._frozen: dict[str, frozenset[int]] = {}  # of all experts, by the name of a parameter that is shared
        self._tally = self.communicator.ledger.tally
        self._ledger_before = RunLedger(self.size)

    @property
    def size(self) -> int:
        """R."""
        return self.communicator.size

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.communicator.rank == 0

    def require_equal(self, described: Mapping[str, Any]) -> None:
        """ValueError on every rank, with what differs and where, unless all ranks give the same."""
        require_equal(self.communicator, described)

    def share(self, model: Transformer, **settings: str) -> None:
        """Leave this rank its experts; in place. The settings are those of :func:`share_experts`."""
        if self.size > 1 or self.experts_across is not None:
            across = self.experts_across
            self.holdings = dict(share_experts(model, self.communicator, experts_across=across, **settings))
            shared = [(name, p) for name, p in model.named_parameters() if name in self.holdings]
            self._frozen = {name: p.frozen for name, p in shared}
            for name, p in shared:
                self._mark_frozen(name, p)

    def _mark_frozen(self, name: str, parameter: Any) -> None:
        """Which of this rank's experts are frozen."""
        held = self.holdings[name].held
        parameter.frozen = frozenset(i for i, e in enumerate(held) if e in self._frozen[name])

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
        for p, gradient in zip(dense, self._sums(gradients, "dense gradients"), strict=True):
            p.grad = gradient
        for name, p in trained:
            if name in self.holdings:
                gradient = xp.zeros_like(p.data) if p.grad is None else p.grad
                placement = [list(held) for held in self.holdings[name].placement.experts]
                self._tally.add("replicas", {"placement": placement, **_of_one_expert(gradient)}, times=1)
                p.grad = add_up_replicas(self.holdings[name], gradient, "expert gradients")

    def sum_of_squares(self, named_parameters: Iterable[tuple[str, Parameter]]) -> Any:
        """This rank's part of Σ g² of what is trained, so that the sum over ranks counts every gradient once."""
        counted = []
        for name, p in named_parameters:
            if p.grad is None:
                continue
            if name not in self.holdings:
                counted += [p.grad[run] for run in trained_runs(p)] if self.is_first else []
            else:
                first = [e for e in np.flatnonzero(is_first_replica(self.holdings[name])) if e not in p.frozen]
                all_are = len(first) == len(p.grad)
                counted.append(p.grad if all_are else take_rows(p.grad, constant_beside(p.grad, np.array(first, int))))
        return sum_of_squares(counted)

    def add_up(self, numbers: Any) -> Any:
        """The sum over ranks of an array."""
        return self._sums([numbers], "statistics")[0]

    def _sums(self, arrays: list[Any], kind: str) -> list[Any]:
        for dtype in dict.fromkeys(a.dtype for a in arrays):
            numbers = sum(a.size for a in arrays if a.dtype == dtype)
            self._tally.add("sum", {"kind": kind, "bytes": dtype.itemsize, "numbers": numbers}, times=1)
        return add_up(self.communicator, arrays, kind)

    def first_of(self, number: int) -> int:
        """What the first rank has that has anything but 0; 0 if none does."""
        if self.size == 1:
            return number
        self._tally.add("told", {"kind": "agreement"}, numbers=1, text=0)
        return next((n for (n,) in gather_numbers(self.communicator, [number], "agreement") if n), 0)

    def told(self, text: str) -> str:
        """The text of the first rank."""
        return gather_texts(self.communicator, text if self.is_first else "", "agreement")[0]

    def holding(self, name: str) -> Holding | None:
        """Who holds which entries of an array of the model's or the optimizer's state; None if all have all of it."""
        return self.holdings.get(_parameter(name))

    def place(self, model: Transformer, optimizer: AdamW, placements: Mapping[str, Placement]) -> None:
        """Move experts, with their moments, to other ranks; what the model computes stays the same. All ranks together.

        Args:
            model: shared by :meth:`share`.
            optimizer: of its parameters.
            placements: by the path of a layer with experts, such as ``layers.0.feed_forward``.
        """
        layers = {path.removesuffix("."): module for path, module in model.named_modules()}
        parameters = dict(model.named_parameters())
        for path, new in placements.items():
            layer: Any = layers[path]
            present: Holding = layer.holding
            found = moves(present.placement, new)
            for name in [name for name, of in self.holdings.items() if of is present]:
                parameter = parameters[name]
                parameter.data = self._moved(parameter.data, present, new, found)
                parameter.grad = None
                for state in (optimizer.first, optimizer.second, optimizer.master):
                    if name in state:
                        state[name] = self._moved(state[name], present, new, found)
                self.holdings[name] = replace(present, placement=new)
                self._mark_frozen(name, parameter)
            layer.holding = replace(present, placement=new)
            num_real = getattr(layer.experts, "num_real", None)
            if num_real is not None:  # zero-computation experts come after those of this rank
                layer.experts.num_real = len(layer.holding.held)

    def _moved(self, array: Any, present: Holding, new: Placement, found: tuple[Move, ...]) -> Any:
        own = [move.target for move in found if move.source == self.communicator.rank]
        leaving = np.bincount(np.array(own, np.int64), minlength=self.size)
        self._tally.add("moves", _of_one_expert(array), experts=leaving)
        return moved(array, present, new, found, "moves")

    def ledger(self, step: int) -> RunLedger | None:
        """What all ranks have sent in the run up to ``step``; None of one rank, and on others than the first.

        All ranks call it; what they tell one another for it is not counted.
        """
        if self.size == 1:
            return None
        gathered = RunLedger.of(self.communicator, step)
        return self._ledger_before + gathered if self.is_first else None

    def continue_ledger(self, before: RunLedger | None, step: int) -> None:
        """Go on from the ledger of the checkpoint of ``step``; from nothing if it is of another number of ranks."""
        same = before is not None and before.num_ranks == self.size
        self._ledger_before = before if before is not None and same else RunLedger(self.size, since=step, step=step)


def _of_one_expert(array: Any) -> dict[str, Any]:
    """For the tally: what one expert has in an array with an entry for each."""
    return {"numbers": math.prod(array.shape[1:]), "bytes": array.dtype.itemsize}


def _parameter(name: str) -> str:
    """The parameter that an array of an optimizer belongs to, or the name itself."""
    kind, _, parameter = name.partition(".")
    return parameter if kind in ("first", "second", "master") else name
