"""Layers with experts, in place of a dense feed-forward layer: route, dispatch, run the experts, combine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..autodiff.arrays import is_float
from ..nn import FeedForward, Linear, Module, Padding
from ..nn.padding import padding_of
from ..ops import Concatenate, Sigmoid
from ..parallel import Holding
from ..typing import Bool, Float, Int, Random
from .dispatch import STRATEGIES, Combine, Permute, dispatch_exchange, gate_input
from .dispatch_copies import dispatch_copies
from .experts import WithZeroExperts, make_experts, require_sizes, rows_of_experts
from .router import Router, RouterConfig
from .routing import Batch, Routing
from .soft import SoftMoE


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
        num_groups: if above 0, a layer of two levels: a router for the groups, and one in each group.
        slots: for Soft MoE, slots per expert.
    """

    router: RouterConfig | None
    experts: str = "swiglu"
    expert_settings: Mapping[str, float] = field(default_factory=dict, hash=False)
    shared_experts: int = 0
    shared_d_ff: int | None = None
    shared_bias: bool = False
    gated_shared: bool = False
    zero_experts: int = 0
    num_groups: int = 0
    slots: int = 0

    def shared_width(self, d_ff: int) -> int:
        """The hidden width of the shared experts together, beside experts of width ``d_ff``."""
        return self.shared_d_ff or self.shared_experts * d_ff

    def __post_init__(self) -> None:
        for name in ("shared_experts", "zero_experts", "num_groups", "slots"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("gated_shared", "shared_d_ff", "shared_bias"):
            if getattr(self, name) and not self.shared_experts:
                raise ValueError(f"{name} needs shared_experts of at least 1, got 0")


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
        if recipe.router is None or recipe.num_groups:
            raise ValueError("this recipe describes a two-level or Soft MoE layer; build it with make_layer")
        self.d_model, self.d_ff, self.num_experts = d_model, d_ff, num_experts
        self.dispatch = dispatch
        self.holding: Holding | None = None
        self.router = Router(recipe.router, d_model, num_experts + recipe.zero_experts, rng=rng, dtype=dtype)
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
    ) -> tuple[Float[Tensor, "*batch d"], Routing]:
        """Return the layer's output, of x's shape, and how it was routed.

        With a mask the result is that of the real tokens without any padding between them, and zero at the padding,
        which gets no gradient either: it takes no place, counts in no loss, statistic or balancer, and draws no noise.

        Args:
            x: [..., S, d]; leading axes are flattened to T tokens, S is the length of a sequence.
            rng: for the router's noise while training.
            token_ids: of x's shape without d, for hash routing.
            mask: of x's shape without d, True for real tokens; None if all are. See :class:`moe_numpy.nn.Padding`.
        """
        tokens, batch, padding = _tokens_and_batch(x, self.d_model, self.training, rng, token_ids, mask)
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
        return (y.reshape(*x.shape), routing) if padding is None else _with_padding(y, routing, padding)

    def _always(self, x: Float[Tensor, "T d"]) -> Float[Tensor, "T d"]:
        """What the shared experts answer."""
        assert self.shared is not None
        y: Tensor = self.shared(x)
        return y if self.shared_gate is None else Sigmoid.apply(self.shared_gate(x)) * y

    def active_parameters(self) -> int:
        """The active parameters per token, on average: all but those of the experts that it does not choose."""
        of_experts = self.experts.num_parameters()
        of_one = of_experts // self.num_experts
        real = self.num_experts / self.router.num_experts  # the rest are zero-computation experts
        return self.num_parameters() - of_experts + round(self.router.per_token * real * of_one)


class HierarchicalMoE(Module):
    """y = Σ_g G_g(x) Σ_j G_(j|g)(x) f_gj(x): a router for the groups, and one in each group.

    Jordan and Jacobs 1994, equations 1 to 3; sparse in Shazeer et al. 2017, appendix B. Both levels use the same
    configuration; ``dispatch`` is that inside the groups. The routing that comes back is that of the groups, with
    the auxiliary losses of both levels.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        num_experts: int,
        recipe: Recipe,
        *,
        dispatch: str = "sorted",
        rng: Random,
        dtype: Any = np.float32,
    ):
        require_sizes(d_model=d_model, d_ff=d_ff, num_experts=num_experts)
        groups = recipe.num_groups
        if recipe.router is None or groups < 1 or num_experts % groups:
            raise ValueError(f"num_groups must divide num_experts={num_experts}, got {groups}")
        self.d_model, self.num_experts = d_model, num_experts
        self.router = Router(recipe.router, d_model, groups, rng=rng, dtype=dtype)
        router = replace(recipe.router, selection=recipe.router.selection.within_group())
        inner = replace(recipe, router=router, num_groups=0)
        self.groups = [
            MoE(d_model, d_ff, num_experts // groups, inner, dispatch=dispatch, rng=rng, dtype=dtype)
            for _ in range(groups)
        ]

    def forward(
        self,
        x: Float[Tensor, "*batch d"],
        rng: Random | None = None,
        token_ids: Int[Any, "*batch"] | None = None,
        mask: Bool[Any, "*batch"] | None = None,
    ) -> tuple[Float[Tensor, "*batch d"], Routing]:
        """As :meth:`MoE.forward`. Each group sees only its own tokens."""
        tokens, batch, padding = _tokens_and_batch(x, self.d_model, self.training, rng, token_ids, mask)
        routing = self.router(tokens, batch)
        kept = routing.only_kept()
        rows, gate = gate_input(Permute.apply(tokens, kept.token), kept.gate, kept)
        ids = None if batch.token_ids is None else batch.token_ids.reshape(-1)[kept.token]
        answers, losses, total = [], dict(routing.losses), routing.auxiliary_loss
        for g, mine in enumerate(rows_of_experts(routing.offsets)):
            answer, inner = self.groups[g](rows[mine], rng, None if ids is None else ids[mine])
            answers.append(answer)
            losses |= {f"group {g} {name}": loss for name, loss in inner.losses.items()}
            if inner.auxiliary_loss is not None:
                total = inner.auxiliary_loss if total is None else total + inner.auxiliary_loss
        y = Combine.apply(Concatenate.apply(*answers, axis=0), gate, kept.token, num_tokens=routing.num_tokens)
        routing = replace(routing, losses=losses, auxiliary_loss=total)
        return (y.reshape(*x.shape), routing) if padding is None else _with_padding(y, routing, padding)

    def active_parameters(self) -> int:
        """The router, and on average k groups with the active parameters of one."""
        return self.router.num_parameters() + round(self.router.per_token * self.groups[0].active_parameters())


def _tokens_and_batch(
    x: Tensor, d_model: int, training: bool, rng: Random | None, token_ids: Any, mask: Any
) -> tuple[Float[Tensor, "T d"], Batch, Padding | None]:
    """x as T real tokens, what else a router may know about them, and the padding that was between them."""
    if not hasattr(x, "dtype") or not is_float(x.dtype):
        raise TypeError(f"x must be a Tensor of floats, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim == 0 or x.shape[-1] != d_model:
        raise ValueError(f"x must end in d_model={d_model}, got shape {x.shape}")
    if token_ids is not None and token_ids.shape != x.shape[:-1]:
        raise ValueError(f"token_ids must have shape {x.shape[:-1]}, that of x without d, got {token_ids.shape}")
    padding = padding_of(mask, x.shape[:-1])
    if padding is None:
        return x.reshape(-1, d_model), Batch(x.shape[-2] if x.ndim > 1 else 1, training, rng, token_ids), None
    lengths = padding.lengths or (0,)
    ids = None if token_ids is None else padding.remove(token_ids)
    uneven = lengths if min(lengths) < max(lengths) else None
    return padding.remove(x), Batch(max(lengths), training, rng, ids, uneven), padding


def _with_padding(y: Float[Tensor, "N d"], routing: Routing, padding: Padding) -> tuple[Tensor, Routing]:
    """Zeros between the real tokens, and a routing that numbers all."""
    real = array_namespace(routing.token).asarray(padding.real)
    asked = routing.statistics.asked
    statistics = replace(routing.statistics, asked=replace(asked, token=real[asked.token]))
    token, num_tokens = real[routing.token], math.prod(padding.shape)
    return padding.restore(y), replace(routing, token=token, num_tokens=num_tokens, statistics=statistics)


def make_layer(
    recipe: Recipe,
    d_model: int,
    d_ff: int,
    num_experts: int,
    *,
    dispatch: str = "sorted",
    rng: Random,
    dtype: Any = np.float32,
) -> "MoE | HierarchicalMoE | SoftMoE":
    """The layer that a recipe describes. TypeError for anything but a Recipe."""
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, such as recipes.mixtral(), got {recipe!r:.60}")
    if recipe.slots:
        return SoftMoE(d_model, d_ff, num_experts, recipe.slots, experts=recipe.experts, rng=rng, dtype=dtype)
    if recipe.num_groups:
        return HierarchicalMoE(d_model, d_ff, num_experts, recipe, dispatch=dispatch, rng=rng, dtype=dtype)
    return MoE(d_model, d_ff, num_experts, recipe, dispatch=dispatch, rng=rng, dtype=dtype)
