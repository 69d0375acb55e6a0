"""A model whose experts are spread over ranks: each rank keeps the weights of its own, and all of everything else."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..nn import Module, Parameter
from ..parallel import Communicator, Holding, Placement
from .experts import WithZeroExperts
from .layer import MoE
from .router import Router
from .soft import SoftMoE
from .tree import HierarchicalMoE

CAPACITY_SCOPES = ("global", "rank")
BALANCE_SCOPES = ("global", "local")
DEDUPLICATIONS = ("none", "exact", "sums")


def share_experts(
    model: Module,
    communicator: Communicator,
    *,
    experts_across: int | None = None,
    capacity_scope: str = "global",
    balance_scope: str = "global",
    deduplicate: str = "none",
) -> Mapping[str, Holding]:
    """Keep the weights of this rank's experts, and let layers and routers work with the other ranks; in place.

    Args:
        model: with the same weights on every rank.
        communicator: the ranks.
        experts_across: over how many ranks the experts are spread; the next ones have the same again. All by default.
        capacity_scope: ``"global"``: places are those of the whole batch, as in one process. ``"rank"``: each rank's
            tokens have their own.
        balance_scope: ``"global"``: balance losses are those of the whole batch. ``"local"``: the mean of the ranks'
            losses, which is another loss.
        deduplicate: how a row travels that several experts of one rank want, see :class:`Holding`.

    Returns:
        By name, the parameters that have an entry for each expert of this rank, and who holds which.

    Raises:
        ValueError: a setting is unknown, experts_across does not divide the number of ranks, or a tree of experts has
            losses of its own.
    """
    _require("capacity_scope", capacity_scope, CAPACITY_SCOPES)
    _require("balance_scope", balance_scope, BALANCE_SCOPES)
    _require("deduplicate", deduplicate, DEDUPLICATIONS)
    across = communicator.size if experts_across is None else experts_across
    if across < 1 or communicator.size % across:
        raise ValueError(f"experts_across must divide the number of ranks, {communicator.size}, got {across}")
    of_experts: dict[int, Holding] = {}
    for name, module in model.named_modules():
        if isinstance(module, MoE | SoftMoE):
            even = Placement.even(module.num_experts, across)
            placement = Placement(even.experts * (communicator.size // across), module.num_experts)
            experts: Any = module.experts
            home = 0
            if isinstance(experts, WithZeroExperts):
                home = module.router.num_experts - module.num_experts if module.router is not None else 0
                experts.num_real, experts = len(placement.experts[communicator.rank]), experts.real
            module.holding = Holding(communicator, placement, home, deduplicate, name=name.rstrip("."))
            for parameter in experts.parameters():
                if id(parameter) not in of_experts:  # layers may have the same experts
                    of_experts[id(parameter)] = module.holding
                    parameter.data = parameter.data[list(module.holding.held)]
        elif isinstance(module, HierarchicalMoE) and module.losses:
            names = ", ".join(type(loss).__name__ for loss in module.losses)
            raise ValueError(f"the losses of a tree ({names}) are those of one process, got {communicator.size} ranks")
        elif isinstance(module, Router):
            module.communicator, module.balance_scope, module.name = communicator, balance_scope, name.rstrip(".")
            capacity = module.config.capacity
            if capacity_scope == "rank" and capacity is not None and capacity.scope == "batch":
                module.config = replace(module.config, capacity=replace(capacity, scope="rank"))
    named: list[tuple[str, Parameter]] = list(model.named_parameters())
    return {name: of_experts[id(parameter)] for name, parameter in named if id(parameter) in of_experts}


def _require(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {value!r}")
