"""Gradient-check cases for everything in ``moe_numpy.moe``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..moe import MoE, RouterConfig, recipes
from ..moe.balance import RouterZLoss, SwitchBalanceLoss
from ..moe.capacity import Capacity, KeepAssignments
from ..moe.dispatch import STRATEGIES, Combine, Permute
from ..moe.experts import GroupedAffine, GroupedSwiGLU
from ..moe.gates import PickScores, Raw, Renormalize, Renormalized
from ..moe.selection import TopK
from . import case

Case = tuple[Callable[..., Any], list[np.ndarray]]

# Six assignments of four tokens to four experts, as a dropping router leaves them: expert 1 is empty, token 3
# has nobody, token 0 has three experts, and the order is by expert.
TOKEN = np.array([0, 2, 0, 1, 0, 2])
EXPERT = np.array([0, 0, 2, 2, 3, 3])
OFFSETS = np.array([0, 2, 2, 4, 6])


@case(PickScores)
def pick_scores(rng: np.random.Generator) -> Case:
    """Some entries of a score matrix."""
    return lambda p: PickScores.apply(p, TOKEN, EXPERT), [rng.standard_normal((4, 4))]


@case(Renormalize)
def renormalize(rng: np.random.Generator) -> Case:
    """Variable numbers of experts for a token, one of them with a single expert."""
    return lambda s: Renormalize.apply(s, TOKEN, num_tokens=4), [rng.uniform(0.1, 1, 6)]


@case(KeepAssignments)
def keep_assignments(rng: np.random.Generator) -> Case:
    """Two of five weights are dropped, the rest change places."""
    return lambda w: KeepAssignments.apply(w, np.array([4, 0, 2])), [rng.standard_normal(5)]


@case(SwitchBalanceLoss)
def switch_balance_loss(rng: np.random.Generator) -> Case:
    """Uneven fractions, held constant."""
    f = rng.dirichlet(np.ones(3))
    return lambda p: SwitchBalanceLoss.apply(p, f), [rng.dirichlet(np.ones(3), size=5)]


@case(RouterZLoss)
def router_z_loss(rng: np.random.Generator) -> Case:
    """Logits of both signs."""
    return lambda h: RouterZLoss.apply(h), [rng.standard_normal((5, 3))]


@case(Permute)
def permute(rng: np.random.Generator) -> Case:
    """A token copied three times, one never copied."""
    return lambda x: Permute.apply(x, TOKEN), [rng.standard_normal((4, 3))]


@case(Combine)
def combine(rng: np.random.Generator) -> Case:
    """Three answers summed into one token, none into another."""
    return (
        lambda r, w: Combine.apply(r, w, TOKEN, num_tokens=4),
        [rng.standard_normal((6, 3)), rng.standard_normal(6)],
    )


@case(GroupedSwiGLU)
def grouped_swiglu(rng: np.random.Generator) -> Case:
    """Four experts, one without rows."""
    return (
        lambda x, gate_up, down: GroupedSwiGLU.apply(x, gate_up, down, OFFSETS),
        [rng.standard_normal((6, 3)), rng.standard_normal((4, 10, 3)), rng.standard_normal((4, 3, 5))],
    )


@case(GroupedAffine)
def grouped_affine(rng: np.random.Generator) -> Case:
    """Four experts with biases, one without rows."""
    return (
        lambda x, weight, bias: GroupedAffine.apply(x, weight, bias, OFFSETS),
        [rng.standard_normal((6, 3)), rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2))],
    )


def _layer(rng: np.random.Generator, router: RouterConfig, experts: str, dispatch: str) -> Case:
    """Output and auxiliary losses of a whole layer as a function of its input and of every parameter."""
    layer = MoE(3, 4, 4, router, experts=experts, dispatch=dispatch, rng=rng, dtype=np.float64)
    names = [name for name, _ in layer.named_parameters()]
    owners = {name: _owner(layer, name) for name in names}

    def f(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        for name, weight in zip(names, weights, strict=True):
            setattr(*owners[name], weight)
        y, routing = layer(x, np.random.default_rng(0))
        return (y, *routing.losses.values())

    weights = [p.data + 0.1 * rng.standard_normal(p.shape) for p in layer.parameters()]
    return f, [rng.standard_normal((6, 3)), *weights]


def _owner(layer: MoE, path: str) -> tuple[Any, str]:
    *parents, last = path.split(".")
    module: Any = layer
    for parent in parents:
        module = getattr(module, parent)
    return module, last


def _register_layers() -> None:
    """Every router below with every kind of expert and every dispatch strategy, as one case each."""
    routers = {
        "mixtral": recipes.mixtral(),
        "switch": recipes.switch(capacity_factor=None),
        "switch_dropping": recipes.switch(capacity_factor=0.7),
        "top2_raw": RouterConfig(TopK(2), weights=Raw()),
        "top2_dropping": RouterConfig(TopK(2), weights=Renormalized(), capacity=Capacity(0.7)),
    }
    for dispatch in STRATEGIES:
        for router_name, router in routers.items():
            for experts in ("swiglu", "gelu"):

                def build(
                    rng: np.random.Generator,
                    router: RouterConfig = router,
                    experts: str = experts,
                    dispatch: str = dispatch,
                ) -> Case:
                    return _layer(rng, router, experts, dispatch)

                case(PickScores, KeepAssignments, Combine, name=f"moe_{router_name}_{experts}_{dispatch}")(build)


_register_layers()
