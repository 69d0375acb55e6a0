"""Splitting an expert: one that gets no tokens becomes a second copy of one that gets too many."""

from collections.abc import Iterable

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..kernels import to_host
from ..typing import Array, Float, Random
from .expert_stacks import expert_tensors
from .layer import MoE

_SPREAD = 0.1  # of the router's row: how far apart it puts the copies


def arrays_of_experts(layer: MoE) -> dict[str, Tensor]:
    """By name in the layer, what has an entry for each expert: weights, rows of the router, the balancer's state."""
    of_experts = {id(tensor) for tensor in expert_tensors(layer)}
    tensors: list[tuple[str, Tensor]] = [*layer.named_parameters(), *layer.named_buffers()]
    return {name: tensor for name, tensor in tensors if id(tensor) in of_experts}


def idle_and_loaded(load: Float[Array, " E"], below: float) -> list[tuple[int, int]]:
    """Which experts to split: pairs of one with less than ``below`` of the fair share and the most loaded one.

    After each pair both count with half the load, so that several idle experts share out several loaded ones.
    """
    load = np.array(to_host(load), np.float64)
    idle, pairs = np.flatnonzero(load < below * load.mean()), []
    idle = idle[np.argsort(load[idle], kind="stable")]
    load[idle] = 0  # none is split before it was given tokens
    for expert in idle:
        loaded = int(load.argmax())
        load[[expert, loaded]] = load[loaded] / 2
        pairs.append((int(expert), loaded))
    return pairs


def split(arrays: Iterable[Array], idle: int, loaded: int) -> None:
    """Copy entry ``loaded`` of each array over entry ``idle``, in place."""
    for array in arrays:
        array[idle] = array[loaded]


def move_apart(weights: Iterable[Float[Array, "E d"]], idle: int, loaded: int, rng: Random) -> None:
    """Router rows w ± δ for the two copies, in place, with δ ~ N(0, (0.1 ‖w‖)² / d): the sign of δ · x decides.

    With k = 1 the copies share out the tokens of the one they were, and what a token gets stays nearly the same. With
    k > 1 a token may choose both copies in place of two experts: the loss rises until they differ.

    Args:
        weights: the router's, and its copies in other types.
    """
    weights = list(weights)
    w = to_host(weights[-1][loaded]).astype(np.float64)
    step = rng.standard_normal(len(w)) * (_SPREAD * np.linalg.norm(w) / len(w) ** 0.5)
    for weight in weights:
        xp = array_namespace(weight)
        weight[idle], weight[loaded] = (xp.asarray(row, dtype=weight.dtype) for row in (w + step, w - step))
