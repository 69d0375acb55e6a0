"""What changes about experts while training: how many a token gets, how many places they have, and which are split."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ..models import Transformer
from ..moe import MoE, Router, RouterConfig
from ..moe.selection import FixedK
from ..moe.splitting import arrays_of_experts, idle_and_loaded, move_apart, split
from ..typing import Array, Random
from .config import TrainingConfig
from .optimizers import AdamW

_OVER = 0.5  # of the steps: the part over which schedules run


def require_reallocatable(model: Transformer, config: TrainingConfig, num_ranks: int) -> None:
    """ValueError, by the name of the setting, if the model cannot do what the configuration asks."""
    configs = [router.config for router in _routers(model)]
    for setting, possible in (("top_k_from", _chooses_k), ("capacity_from", _has_capacity)):
        if getattr(config, setting) is not None and not (configs and all(map(possible, configs))):
            need = "k experts for each token" if setting == "top_k_from" else "experts with a capacity_factor"
            raise ValueError(f"{setting}={getattr(config, setting)} needs a recipe of {need}")
    if config.top_k_from is not None:
        for router in _routers(model):
            scheduled(router.config, config, 0).selection.validate(router.num_experts)
    if config.split_every and not _mixtures(model):
        raise ValueError(f"split_every={config.split_every} needs layers in which one router chooses among all experts")
    if config.split_every and num_ranks > 1:
        raise ValueError(f"split_every={config.split_every} needs one process, got {num_ranks} ranks or parts")


def scheduled(router: RouterConfig, config: TrainingConfig, step: int) -> RouterConfig:
    """The router of a step; from the middle of training on, the configuration itself.

    k falls from ``top_k_from`` to the recipe's at equal intervals over the first half of the steps, and the factor of
    the capacity on a line from ``capacity_from``: from dense to sparse, as in EvoMoE (Nie et al. 2021, section 3.3),
    where a temperature does it.
    """
    left = max(0.0, 1 - step / (_OVER * config.steps))
    if config.top_k_from is not None and left > 0:
        selection: Any = router.selection
        k = selection.k + round(left * (config.top_k_from - selection.k))
        router = replace(router, selection=replace(selection, k=k))
    if config.capacity_from is not None and left > 0:
        capacity: Any = router.capacity
        factor = capacity.factor + left * (config.capacity_from - capacity.factor)
        router = replace(router, capacity=replace(capacity, factor=factor))
    return router


@contextmanager
def schedules(model: Transformer, config: TrainingConfig, step: int) -> Iterator[None]:
    """The model with the routers of a step; afterwards it has those of its configuration again."""
    routers = _routers(model) if config.top_k_from is not None or config.capacity_from is not None else []
    before = [router.config for router in routers]
    try:
        for router in routers:
            router.config = scheduled(router.config, config, step)
        yield
    finally:
        for router, own in zip(routers, before, strict=True):
            router.config = own


def split_idle(
    model: Transformer, optimizer: AdamW, loads: Sequence[Array], below: float, rng: Random
) -> list[list[int]]:
    """Split loaded experts where others have less than ``below`` of their fair share; in place.

    A copy has the weights, the moments and the balancer's state of the one it was made of; only their rows of the
    router differ, see :func:`moe_numpy.moe.splitting.move_apart`. Frozen experts are neither.

    Args:
        loads: of the experts of each routed layer.
        below: a fraction of the fair share.
        rng: for the difference.

    Returns:
        Layer, idle expert, and the loaded one that it became a copy of.
    """
    done = []
    of_layer = dict(zip(model.routed_layers, loads, strict=True))
    for i, layer in _mixtures(model).items():
        path = f"layers.{i}.feed_forward."
        arrays = arrays_of_experts(layer)
        stored = {name: _stored(path + name, tensor, optimizer) for name, tensor in arrays.items()}
        for idle, loaded in idle_and_loaded(of_layer[i][: layer.num_experts], below):
            if layer.router.weight.frozen & {idle, loaded}:
                continue
            split((array for of_one in stored.values() for array in of_one), idle, loaded)
            master = optimizer.master.get(path + "router.weight")
            move_apart([w for w in (layer.router.weight.data, master) if w is not None], idle, loaded, rng)
            done.append([i, idle, loaded])
    return done


def _stored(name: str, tensor: Any, optimizer: AdamW) -> list[Array]:
    """A parameter's array, its moments and its master copy."""
    states = (optimizer.first, optimizer.second, optimizer.master)
    return [tensor.data, *(state[name] for state in states if name in state)]


def _mixtures(model: Transformer) -> dict[int, MoE]:
    """The layers in which one router chooses among all experts, by their index."""
    layers = ((i, model.layers[i].feed_forward) for i in model.routed_layers)
    return {i: layer for i, layer in layers if isinstance(layer, MoE) and not layer.pools}


def _routers(model: Transformer) -> list[Router]:
    return [module for _, module in model.named_modules() if isinstance(module, Router)]


def _chooses_k(config: RouterConfig) -> bool:
    selection = config.selection
    return isinstance(selection, FixedK) and is_dataclass(selection) and "k" in {f.name for f in fields(selection)}


def _has_capacity(config: RouterConfig) -> bool:
    return config.capacity is not None and config.capacity.factor is not None
