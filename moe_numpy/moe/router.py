"""Router: gates, selection, capacity and balance in one pipeline. Routing: what it decided.

    x [T,d] → logits → scores → candidates → weights → capacity → Routing
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..autodiff import Function, Tensor
from ..nn import Module
from ..nn.module import normal
from ..ops import Affine, Cast, Softmax
from ..typing import Float
from .balance import Gating, Loss
from .capacity import Capacity, KeepAssignments
from .gates import Noise, PickScores, Renormalized, Weights
from .selection import TopK


@dataclass(frozen=True)
class RouterConfig:
    """A published router, as a configuration. See :mod:`moe_numpy.moe.recipes`.

    Attributes:
        selection: which experts each token asks for.
        scores: the Function that turns logits [T, E] into scores.
        weights: how chosen scores become gate weights.
        noise: randomness during training, or None.
        capacity: how many assignments an expert takes, or None for no limit: then nothing is dropped.
        losses: auxiliary losses, each with its own coefficient.
    """

    selection: TopK
    scores: type[Function] = Softmax
    weights: Weights = Renormalized()
    noise: Noise | None = None
    capacity: Capacity | None = None
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """The assignments that found no place, in the order of tokens."""

    token: Any  # Int[D]
    expert: Any  # Int[D]
    capacity: int | None

    def __len__(self) -> int:
        return len(self.token)

    def reason(self, i: int) -> str:
        """Why the i-th of them was dropped, in words."""
        return f"token {self.token[i]}: expert {self.expert[i]} had filled its {self.capacity} places"


@dataclass(frozen=True)
class Statistics:
    """What a router did with one batch; constants, for tables and plots."""

    load: Any  # Int[E]: assignments asked of each expert, before dropping
    importance: Any  # Float[E]: the mean score of each expert over all tokens
    dropped: Dropped

    @property
    def dropped_fraction(self) -> float:
        """Dropped assignments over all assignments."""
        return len(self.dropped) / max(int(self.load.sum()), 1)


@dataclass(frozen=True)
class Routing:
    """N assignments: token ``token[n]`` goes to expert ``expert[n]``, ordered by expert, then by token.

    Expert e owns the assignments ``offsets[e]:offsets[e+1]``. ``weight`` is a Tensor and the only
    differentiable path through the selection; everything else is constant.
    """

    token: Any  # Int[N]
    expert: Any  # Int[N]
    weight: Tensor  # Float[N]
    offsets: Any  # Int[E+1]
    num_tokens: int
    losses: Mapping[str, Tensor]  # by name, without their coefficients
    auxiliary_loss: Tensor | None  # their weighted sum, to be added to the task loss
    statistics: Statistics

    @property
    def num_experts(self) -> int:
        """E."""
        return len(self.offsets) - 1


class Router(Module):
    """h = x W_gᵀ, then the pipeline of a :class:`RouterConfig`.

    Args:
        config: the parts of the pipeline.
        d_model: width d of a token.
        num_experts: E.
        rng: draws the weight W_g [E, d] from N(0, 1/d).
        dtype: of the weight. Logits and everything after them are float32 or wider.

    Raises:
        ValueError: ``top_k`` does not fit ``num_experts``.
    """

    def __init__(
        self,
        config: RouterConfig,
        d_model: int,
        num_experts: int,
        *,
        rng: np.random.Generator,
        dtype: Any = np.float32,
    ):
        config.selection.validate(num_experts)
        self.config = config
        self.num_experts = num_experts
        self.weight = normal(rng, (num_experts, d_model), d_model**-0.5, dtype)

    def forward(self, x: Float[Tensor, "T d"], rng: np.random.Generator | None = None) -> Routing:
        """Route T tokens. ``rng`` is needed while training with noise."""
        config = self.config
        noise = config.noise if self.training else None
        if noise is not None and rng is None:
            raise ValueError(f"a router with {noise} needs rng while training; pass rng=, or call eval()")

        h = _at_least_float32(x)
        if noise is not None:
            h = noise.on_input(h, rng)
        logits = Affine.apply(h, _at_least_float32(self.weight), None)
        noisy = logits if noise is None else noise.on_logits(logits, rng)
        scores = config.scores.apply(noisy)

        candidates = config.selection(scores.data)
        num_tokens = x.shape[0]
        picked = PickScores.apply(scores, candidates.token, candidates.expert)
        weight = config.weights(picked, candidates.token, num_tokens)

        k = kernels.of(scores.data)
        load = k.count(candidates.expert, self.num_experts)
        capacity = None
        order = k.stable_order(candidates.expert, self.num_experts)
        if config.capacity is not None:
            capacity = config.capacity.size(num_tokens, self.num_experts, config.selection.k)
            fits = config.capacity.fits(candidates, capacity, self.num_experts)
            lost = ~fits
            dropped = Dropped(candidates.token[lost], candidates.expert[lost], capacity)
            order = order[fits[order]]
        else:
            dropped = Dropped(candidates.token[:0], candidates.expert[:0], None)
        expert = candidates.expert[order]

        gating = Gating(logits, load)
        losses = {loss.name: loss(gating) for loss in config.losses}
        return Routing(
            token=candidates.token[order],
            expert=expert,
            weight=KeepAssignments.apply(weight, order),
            offsets=k.offsets_of(k.count(expert, self.num_experts)),
            num_tokens=num_tokens,
            losses=losses,
            auxiliary_loss=_weighted_sum(config.losses, losses),
            statistics=Statistics(load, scores.data.sum(axis=0) / max(num_tokens, 1), dropped),
        )


def _at_least_float32(x: Tensor) -> Tensor:
    return Cast.apply(x, dtype=np.float32) if x.dtype.itemsize < 4 else x


def _weighted_sum(parts: tuple[Loss, ...], losses: Mapping[str, Tensor]) -> Tensor | None:
    total = None
    for part in parts:
        term = losses[part.name] * part.coefficient
        total = term if total is None else total + term
    return total
