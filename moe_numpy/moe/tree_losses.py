"""Losses of a tree of experts, over the experts of all its branches (Shazeer et al. 2017, appendix B).

A loss of each router by itself leaves experts uneven: a branch with few tokens may share them evenly. These count what
reaches an expert from the root.
"""

from dataclasses import dataclass

from ..autodiff import Tensor
from ..ops import Concatenate
from ..typing import Float
from .losses import SquaredCV, SumByExpert, expected_load
from .routing import Routing, true_indices


def importance_of_leaves(routing: Routing, path: Tensor | None = None) -> Float[Tensor, " E"]:
    """I_l = Σ_t Π of the gate weights on the path from the root to expert l (appendix B, Importance_H).

    Args:
        routing: of a tree, or of the mixture at its end, in which nothing was dropped.
        path: [T], the product above the router of ``routing``; 1 at the root.
    """
    trace = routing.trace
    token, expert = trace.candidates.token, trace.candidates.expert
    gate = trace.gate if path is None else path[token] * trace.gate
    if not routing.children:
        return SumByExpert.apply(gate, expert, num_experts=trace.logits.shape[1])
    rows = (true_indices(expert == g) for g in range(len(routing.children)))  # candidates are listed by token
    parts = [importance_of_leaves(child, gate[mine]) for child, mine in zip(routing.children, rows, strict=True)]
    return Concatenate.apply(*parts, axis=0)


def load_of_leaves(routing: Routing) -> Float[Tensor, " E"]:
    """L_gj = L_g · L_(j|g) / T_g: the load of branch g times the share of its T_g tokens that j expects.

    Appendix B, Load_H; a deeper tree applies it at each level. The loads of a router are
    :func:`moe_numpy.moe.losses.expected_load`.
    """
    load = expected_load(routing.trace)
    if not routing.children:
        return load
    parts = [
        load[g] * load_of_leaves(child) * (1 / max(child.trace.logits.shape[0], 1))
        for g, child in enumerate(routing.children)
    ]
    return Concatenate.apply(*parts, axis=0)


class TreeLoss:
    """The base of both: a name, the coefficient it enters the training loss with, and its value."""

    name: str
    coefficient: float

    def __call__(self, routing: Routing) -> Tensor:
        """The loss without its coefficient."""
        raise NotImplementedError(f"{type(self).__name__} has no value")


@dataclass(frozen=True)
class TreeImportance(TreeLoss):
    """CV² of :func:`importance_of_leaves`; of it every level's routers get their gradient."""

    coefficient: float = 0.1
    name: str = "importance"

    def __call__(self, routing: Routing) -> Tensor:
        return SquaredCV.apply(importance_of_leaves(routing))


@dataclass(frozen=True)
class TreeLoad(TreeLoss):
    """CV² of :func:`load_of_leaves`. Without noise that is a count, and the loss a constant."""

    coefficient: float = 0.1
    name: str = "load"

    def __call__(self, routing: Routing) -> Tensor:
        return SquaredCV.apply(load_of_leaves(routing))
