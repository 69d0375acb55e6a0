"""Layers with experts, in place of a dense feed-forward layer: route, dispatch, run the experts, combine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..nn import FeedForward, Linear, Module
from ..nn.sizes import require_sizes
from ..ops import Sigmoid
from ..parallel import Holding
from ..typing import Bool, Float, Int, Random
from .dispatch import STRATEGIES, dispatch_exchange
from .dispatch_copies import dispatch_copies
from .experts import WithZeroExperts, make_experts
from .flattening import tokens_and_batch, with_padding
from .pools import Pools, pools_of, route_in_pools
from .router import Router, RouterConfig
from .routing import Routing
from .tree_losses import TreeLoss


@dataclass(frozen=True)
class Recipe:
    """A published layer: its router, and what surrounds it.

    Attributes:
        router: the router's configuration; None for Soft MoE, which has none.
        experts: kind of expert, a name from :data:`moe_numpy.moe.experts.KINDS`.
        expert_settings: of that kind.
        shared_experts: experts that every token uses besides those it chooses; one network, that many times as wide.
        shared_d_ff: hidden width of that network, if it is not ``shared_experts`` times that of an expert.
        shared_bias: whether its maps have biases.
        gated_shared: whether the shared experts' answer has the gate weight σ(x · w_s).
        zero_experts: how many experts return their input; they come after the real ones.
        groups: in how many branches each level of a tree divides, from the root down to the one above the experts; see
            :class:`moe_numpy.moe.tree.HierarchicalMoE`. Without any, one router chooses among all experts.
        tree_losses: of a tree, over the experts of all its branches; see :mod:`moe_numpy.moe.tree_losses`.
        slots: for Soft MoE, slots per expert.
        pools: of each modality, text first, the first of its experts and the one after its last, from the end where
            negative; each has a router of its own. Empty: one router, which takes all tokens to all experts.
    """

    router: RouterConfig | None
    experts: str = "swiglu"
    expert_settings: Mapping[str, float] = field(default_factory=dict, hash=False)
    shared_experts: int = 0
    shared_d_ff: int | None = None
    shared_bias: bool = False
    gated_shared: bool = False
    zero_experts: int = 0
    groups: tuple[int, ...] = ()
    tree_losses: tuple[TreeLoss, ...] = ()
    slots: int = 0
    pools: Pools = ()

    def shared_width(self, d_ff: int) -> int:
        """The hidden width of the shared experts together, beside experts of width ``d_ff``."""
        return self.shared_d_ff or self.shared_experts * d_ff

    def __post_init__(self) -> None:
        for name in ("shared_experts", "zero_experts", "slots"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if any(branches < 1 for branches in self.groups):
            raise ValueError(f"groups must be numbers of branches, each at least 1, got {self.groups}")
        if self.tree_losses and (not self.groups or self.router is None or self.router.capacity is not None):
            raise ValueError("tree_losses need groups, and a router without capacity")
        for name in ("gated_shared", "shared_d_ff", "shared_bias"):
            if getattr(self, name) and not self.shared_experts:
                raise ValueError(f"{name} needs shared_experts of at least 1, got 0")
        if self.pools and (self.router is None or self.groups or self.zero_experts):
            raise ValueError("pools need a router, and neither groups nor zero_experts")


class MoE(Module):
    """y_t = Σ over the chosen experts e of g_te f_e(x_t), plus the shared experts' answer if there are any.

    Args:
        d_model: width d of a token.
        d_ff: hidden width f of each expert.
        num_experts: E, zero-computation experts not counted.
        recipe: from :mod:`moe_numpy.moe.recipes`, or your own :class:`RouterConfig`.
        experts: kind of expert, ``"swiglu"``, ``"relu"``, ``"gelu"`` or ``"gpt_oss"``; the recipe's unless given.
        dispatch: ``"sorted"`` (fast), ``"padded"``, ``"onehot"``, ``"loop"`` (obvious) or ``"exchange"`` (on several
            ranks); equal in value and gradient.
        rng: draws the weights.
        dtype: of the weights.

    Raises:
        ValueError: a setting is out of range; the message names it and what is allowed.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        num_experts: int,
        recipe: Recipe | RouterConfig,
        *,
        experts: str | None = None,
        dispatch: str = "sorted",
        rng: Random,
        dtype: Any = np.float32,
    ):
        require_sizes(d_model=d_model, d_ff=d_ff, num_experts=num_experts)
        if dispatch not in STRATEGIES:
            raise ValueError(f"dispatch must be one of {', '.join(STRATEGIES)}, got {dispatch!r}")
        recipe = recipe if isinstance(recipe, Recipe) else Recipe(recipe)
        if recipe.router is None or recipe.groups:
            raise ValueError("this recipe describes a tree or a Soft MoE layer; build it with make_layer")
        self.d_model, self.d_ff, self.num_experts = d_model, d_ff, num_experts
        self.dispatch = dispatch
        self.holding: Holding | None = None
        self.pools = pools_of(recipe.pools, num_experts)
        routes = [len(pool) for pool in self.pools] or [num_experts + recipe.zero_experts]
        self.router, *self.other_routers = (
            Router(recipe.router, d_model, routes_of, rng=rng, dtype=dtype) for routes_of in routes
        )
        settings = {**recipe.expert_settings, "rng": rng, "dtype": dtype}
        self.experts = make_experts(experts or recipe.experts, num_experts, d_model, d_ff, **settings)
        if recipe.zero_experts:
            self.experts = WithZeroExperts(self.experts, num_experts)
        self.shared = self.shared_gate = None
        if recipe.shared_experts:
            self.shared = FeedForward(d_model, recipe.shared_width(d_ff), recipe.shared_bias, rng=rng, dtype=dtype)
        if recipe.gated_shared:
            self.shared_gate = Linear(d_model, 1, rng=rng, dtype=dtype)

    def forward(
        self,
        x: Float[Tensor, "*batch d"],
        rng: Random | None = None,
        token_ids: Int[Any, "*batch"] | None = None,
        mask: Bool[Any, "*batch"] | None = None,
        modality: Int[np.ndarray, "*batch"] | None = None,
    ) -> tuple[Float[Tensor, "*batch d"], Routing]:
        """Return the layer's output, of x's shape, and how it was routed.

        With a mask the result is that of the real tokens without any padding between them, and zero at the padding,
        which gets no gradient either: it takes no place, counts in no loss, statistic or balancer, and draws no noise.

        Args:
            x: [..., S, d]; leading axes are flattened to T tokens, S is the length of a sequence.
            rng: for the router's noise while training.
            token_ids: of x's shape without d, for hash routing.
            mask: of x's shape without d, True for real tokens; None if all are. See :class:`moe_numpy.nn.Padding`.
            modality: of x's shape without d, 0 for text, 1 for image patches; None if all are text.
        """
        tokens, batch, padding = tokens_and_batch(x, self.d_model, self.training, rng, token_ids, mask, modality)
        if self.pools:
            routing = route_in_pools([self.router, *self.other_routers], self.pools, tokens, batch, self.num_experts)
        else:
            routing = self.router(tokens, batch)
        holding, meanwhile = self.holding, None
        if holding is None:
            y = STRATEGIES[self.dispatch](tokens, routing, self.experts)
        else:
            # learned noise has two gradients for x, and the order in which all are added would be another
            if self.shared is not None and holding.overlap and self.router.noise_weight is None:
                meanwhile = self._always
            strategy = dispatch_exchange if holding.deduplicate == "none" else dispatch_copies
            y = strategy(tokens, routing, self.experts, holding, meanwhile)
        if self.shared is not None and meanwhile is None:
            y = y + self._always(tokens)
        return (y.reshape(*x.shape), routing) if padding is None else with_padding(y, routing, padding)

    def _always(self, x: Float[Tensor, "T d"]) -> Float[Tensor, "T d"]:
        """What the shared experts answer."""
        assert self.shared is not None
        y: Tensor = self.shared(x)
        return y if self.shared_gate is None else Sigmoid.apply(self.shared_gate(x)) * y

    @property
    def num_routes(self) -> int:
        """The options of all routers together: the experts, zero-computation ones included."""
        return self.num_experts if self.pools else self.router.num_experts

    def active_parameters(self) -> int:
        """The active parameters per token, on average: all but those of the experts that it does not choose."""
        of_experts = self.experts.num_parameters()
        of_one = of_experts // self.num_experts
        real = self.num_experts / self.num_routes  # the rest are zero-computation experts
        return self.num_parameters() - of_experts + round(self.router.per_token * real * of_one)
