"""Router: gates, selection, capacity and balance in one pipeline. Routing: what it decided.

x [T,d] → logits → (noise) → scores → candidates → weights → capacity → Routing
              ╰→ losses                                               ╰→ statistics
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..autodiff import Function, Tensor
from ..nn import Buffer, Module, Parameter
from ..nn.module import normal
from ..ops import Affine, Softmax
from ..ops.arithmetic import at_least_float32
from ..typing import Float
from .balance import Gating, Loss
from .balancing import Balancer
from .capacity import Capacity, KeepAssignments
from .gates import PickScores, Renormalized, Weights
from .noise import Noise
from .selection import Batch, Selection, true_and_false


@dataclass(frozen=True)
class RouterConfig:
    """A router as a configuration; the published ones are in :mod:`moe_numpy.moe.recipes`.

    Attributes:
        selection: which experts each token asks for.
        scores: the Function that turns logits [T, E] into scores; None takes the logits themselves.
        choose_by: what the selection looks at, ``"scores"`` or ``"logits"``.
        weights: the steps from the scores of chosen experts to gate weights; none leaves the scores as they are.
        weigh: ``"output"``: y = Σ w f(x). ``"input"``: y = Σ f(w x), which is not the same.
        noise: randomness during training, or None.
        capacity: how many assignments an expert takes, or None for no limit: then nothing is dropped.
        weigh_after_dropping: whether the steps of ``weights`` see only the assignments that were kept.
        losses: auxiliary losses, each with its own coefficient.
        balancer: balancing without a loss, changed after each optimizer step, or None.
        bias: whether the logits have a learned bias.
    """

    selection: Selection
    scores: type[Function] | None = Softmax
    choose_by: str = "scores"
    weights: tuple[Weights, ...] = (Renormalized(),)
    weigh: str = "output"
    noise: Noise | None = None
    capacity: Capacity | None = None
    weigh_after_dropping: bool = False
    losses: tuple[Loss, ...] = ()
    balancer: Balancer | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        for setting, allowed in (("choose_by", ("scores", "logits")), ("weigh", ("output", "input"))):
            if getattr(self, setting) not in allowed:
                raise ValueError(f"{setting} must be {allowed[0]} or {allowed[1]}, got {getattr(self, setting)!r}")
        names = [loss.name for loss in self.losses]
        if len(set(names)) < len(names):
            raise ValueError(f"the losses of a router need different names, got {', '.join(names)}")


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
    scores: Any  # Float[T, E]
    dropped: Dropped

    @property
    def importance(self) -> Any:
        """Float[E]: the mean score of each expert over all tokens."""
        return self.scores.sum(axis=0) / max(len(self.scores), 1)

    @property
    def dropped_fraction(self) -> float:
        """Dropped assignments over all assignments."""
        return len(self.dropped) / max(int(kernels.of(self.load).to_host(self.load).sum()), 1)


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
    weigh: str  # "output" or "input", see RouterConfig
    losses: Mapping[str, Tensor]  # by name, without their coefficients
    auxiliary_loss: Tensor | None  # their weighted sum, to be added to the task loss
    statistics: Statistics
    gating: Gating

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
        ValueError: a setting does not fit ``num_experts``.
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
        self.bias = Parameter(np.zeros(num_experts, dtype)) if config.bias else None
        learned = config.noise is not None and config.noise.learned
        self.noise_weight = Parameter(np.zeros((num_experts, d_model), dtype)) if learned else None
        self.balance = None if config.balancer is None else Buffer(config.balancer.initial(num_experts))
        self._load: Any = None  # since the last optimizer step
        self._observed: Any = 0
        self._passes = 0

    @property
    def per_token(self) -> float:
        """K, the experts that a token asks for on average."""
        return self.config.selection.per_token(self.num_experts)

    def forward(self, x: Float[Tensor, "T d"], batch: Batch) -> Routing:
        """Route T tokens. Noise and balancing follow ``batch.training``."""
        config = self.config
        num_tokens = x.shape[0]
        k = kernels.of(x.data)

        noise = config.noise if batch.training else None
        h_input = at_least_float32(x)
        if noise is not None:
            h_input = noise.on_input(h_input, batch.need_rng(noise))
        bias = None if self.bias is None else at_least_float32(self.bias)
        logits = Affine.apply(h_input, at_least_float32(self.weight), bias)
        noisy, sigma = logits, None
        if noise is not None:
            weight = None if self.noise_weight is None else at_least_float32(self.noise_weight)
            noisy, sigma = noise.on_logits(logits, h_input, weight, batch.need_rng(noise))
        scores = noisy if config.scores is None else config.scores.apply(noisy)

        choose_by = scores.data if config.choose_by == "scores" else noisy.data
        if config.balancer is not None and self.balance is not None:
            choose_by = config.balancer.shift(choose_by, self.balance.data)
        candidates = config.selection(choose_by, batch).listed_by_token(num_tokens)
        picked = PickScores.apply(scores, candidates.token, candidates.expert)
        asked = self._weigh(picked, candidates.token, num_tokens)
        if candidates.sent is not None:
            sent, _ = true_and_false(candidates.sent)
            candidates = candidates.only_sent(sent)
            picked, asked = KeepAssignments.apply(picked, sent), KeepAssignments.apply(asked, sent)
        load = k.count(candidates.expert, self.num_experts)

        if config.capacity is None:
            order, offsets = k.sort_by_key(candidates.expert, self.num_experts)  # by expert, then by token
            dropped = Dropped(candidates.token[:0], candidates.expert[:0], None)
        else:
            scope = config.capacity.tokens_in_scope(num_tokens, batch)
            capacity = config.capacity.size(scope, self.num_experts, self.per_token)
            kept, lost = true_and_false(config.capacity.fits(candidates, scores.data, capacity, batch))
            order, offsets = k.sort_by_key(candidates.expert[kept], self.num_experts)
            order = kept[order]
            dropped = Dropped(candidates.token[lost], candidates.expert[lost], capacity)
        token, expert = k.take_rows(candidates.token, order), k.take_rows(candidates.expert, order)

        if config.weigh_after_dropping:
            weight = self._weigh(KeepAssignments.apply(picked, order), token, num_tokens)
        else:
            weight = KeepAssignments.apply(asked, order)

        load_since_update = load if self._load is None else self._load + load
        gating = Gating(logits, noisy, sigma, scores, asked, candidates, load, load_since_update, self.per_token, batch)
        losses, auxiliary = self._losses(gating)
        if batch.training:
            self._observe(gating, choose_by)
        return Routing(
            token=token,
            expert=expert,
            weight=weight,
            offsets=offsets,
            num_tokens=num_tokens,
            weigh=config.weigh,
            losses=losses,
            auxiliary_loss=auxiliary,
            statistics=Statistics(load, scores.data, dropped),
            gating=gating,
        )

    def after_step(self) -> None:
        """Update the balancing state with what was observed since the last optimizer step, and start anew."""
        balancer = self.config.balancer
        if balancer is not None and self.balance is not None and self._passes:
            self.balance.data = balancer.update(self.balance.data, self._observed, self._passes)
        self._load = None
        self._observed = self._passes = 0

    def _weigh(self, s: Tensor, token: Any, num_tokens: int) -> Tensor:
        for step in self.config.weights:
            s = step(s, token, num_tokens)
        return s

    def _losses(self, gating: Gating) -> tuple[dict[str, Tensor], Tensor | None]:
        """The losses by name without coefficients, and their weighted sum."""
        losses: dict[str, Tensor] = {}
        total: Tensor | None = None
        for part in self.config.losses:
            losses[part.name] = part(gating)
            term = losses[part.name] * part.coefficient
            total = term if total is None else total + term
        if self.config.balancer is not None and self.balance is not None:
            own = self.config.balancer.loss(gating, self.balance.data)
            if own is not None:
                losses["balancing"] = own
                total = own if total is None else total + own
        return losses, total

    def _observe(self, gating: Gating, chosen_by: Any) -> None:
        self._load = gating.load_since_update
        if self.config.balancer is not None and self.balance is not None:
            seen = self.config.balancer.observe(gating, chosen_by, self.balance.data)
            self._observed = self._observed + seen
            self._passes += 1
