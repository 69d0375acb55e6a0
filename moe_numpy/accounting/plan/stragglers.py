"""How much more the fullest device has to do than the average one."""

import numpy as np

from ...typing import Array, Float


def imbalance(load: Float[Array, "L E"], shards: tuple[int, ...]) -> float:
    """The load of the fullest device divided by the mean, averaged over the layers: in each, all wait for it.

    Args:
        load: assignments of each layer's experts, or their shares; a layer without any is left out.
        shards: experts of each device, neighbours, as :func:`shards` spreads them.

    Raises:
        ValueError: there is no load, or the shards are not of as many experts.
    """
    if sum(shards) != load.shape[1]:
        raise ValueError(f"shards must have num_experts={load.shape[1]} experts in all, got {sum(shards)}")
    used = load[load.sum(axis=1) > 0]
    if not len(used):
        raise ValueError("load must have a layer with assignments, got none")
    ends = np.cumsum(shards)
    before = np.concatenate([np.zeros((len(used), 1)), np.cumsum(used, axis=1)], axis=1)
    devices = before[:, ends] - before[:, ends - np.array(shards)]
    return float((devices.max(axis=1) / devices.mean(axis=1)).mean())


def zipf_load(num_experts: int, top_k: int, exponent: float) -> Float[Array, "E"]:
    """Shares of the assignments, from the most popular expert on: proportional to 1 / rank^exponent, at most 1/k.

    A token chooses an expert at most once, so no share can exceed 1/k; what the most popular ones cannot take, the
    others share in their proportions.

    Raises:
        ValueError: exponent is negative or not finite, or top_k is not from 1 to num_experts.
    """
    if not 0 <= exponent < np.inf:
        raise ValueError(f"exponent must be at least 0, got {exponent}")
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k must be between 1 and num_experts={num_experts}, got {top_k}")
    ranks, full = np.arange(1, num_experts + 1), 0
    while True:  # until full = top_k - 1: what is left is then 1/k
        weights = (ranks[full:] / ranks[full]) ** -float(exponent)
        left = (top_k - full) / top_k
        shares = np.concatenate([np.full(full, 1 / top_k), left * weights / weights.sum()])
        if shares[full] <= 1 / top_k:
            return shares
        full += 1


def skewed_imbalance(
    num_experts: int,
    top_k: int,
    exponent: float,
    shards: tuple[int, ...],
    *,
    rng: np.random.Generator,
    draws: int = 200,
) -> float:
    """:func:`imbalance` with :func:`zipf_load`, averaged over random orders of the experts.

    Raises:
        ValueError: :func:`zipf_load` or :func:`imbalance` refuses.
    """
    load = zipf_load(num_experts, top_k, exponent)
    return imbalance(rng.permuted(np.tile(load, (draws, 1)), axis=1), shards)
