"""Published routers, each a configuration of the same pipeline."""

from collections.abc import Callable, Mapping

from .balance import SwitchBalance, ZLoss
from .capacity import Capacity
from .gates import Jitter, Raw, Renormalized
from .router import RouterConfig
from .selection import TopK


def switch(*, top_k: int = 1, capacity_factor: float | None = 1.25, balance: float = 0.01) -> RouterConfig:
    """Softmax, one expert, weighted with its raw probability (Fedus, Zoph, Shazeer 2021, equation 2).

    Raw, since a renormalised weight of one expert is constantly 1 and would give the router no gradient.
    """
    return RouterConfig(
        selection=TopK(top_k),
        weights=Raw(),
        noise=Jitter(0.01),
        capacity=None if capacity_factor is None else Capacity(capacity_factor),
        losses=(SwitchBalance(balance),),
    )


def mixtral(
    *, top_k: int = 2, capacity_factor: float | None = None, balance: float = 0.01, z: float = 0.001
) -> RouterConfig:
    """Softmax, two experts, weights renormalised to sum to 1 (Jiang et al. 2024, section 2.1); nothing is dropped.

    The paper writes Softmax(TopK(h)), the softmax of the chosen logits. That is the same function.
    The z-loss (Zoph et al. 2022) is an addition; ``z=0`` leaves it without effect.
    """
    return RouterConfig(
        selection=TopK(top_k),
        weights=Renormalized(),
        capacity=None if capacity_factor is None else Capacity(capacity_factor),
        losses=(SwitchBalance(balance), ZLoss(z)),
    )


RECIPES: Mapping[str, Callable[..., RouterConfig]] = {"mixtral": mixtral, "switch": switch}
