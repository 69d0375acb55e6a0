"""Router: noise, scores, selection, gates, capacity and balance in one pipeline.

x [T,d] → logits → (noise) → scores → choose → gate → admit → Routing
               ╰→ losses                          ╰→ statistics
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function, Tensor
from ..kernels import sort_by_key, take_rows, where_true
from ..nn import Buffer, Module, Parameter
from ..nn.module import after_forward, constant, normal
from ..ops import Affine, Softmax, WideAffine
from ..ops.arithmetic import at_least_float32
from ..parallel import Communicator
from ..typing import Array, Bool, Float, Int, Random
from .balancers import Balancer
from .capacity import Capacity, KeepAssignments, LeaveOut
from .gates import Gate, PickScores, Renormalize
from .losses import Loss
from .noise import Noise
from .routing import Batch, Candidates, Routing, RoutingTrace, Statistics
from .selection import Selection
from .whole_batch import WholeBatch


@dataclass(frozen=True)
class RouterConfig:
    """A router as a configuration; the published ones are in :mod:`moe_numpy.moe.recipes`.

    Attributes:
        selection: which experts each token asks for.
        scores: the Function that turns logits [T, E] into scores, or a function of Tensors where it has settings;
            None takes the logits themselves.
        choose_by: what the selection looks at, ``"scores"`` or ``"logits"``.
        gates: the steps from the scores of chosen experts to gate weights; without any, scores are gate weights.
        gate_on: ``"output"``: y = Σ g f(x). ``"input"``: y = Σ f(g x), which is not the same.
        noise: randomness during training, or None.
        capacity: how many assignments an expert takes, or None for no limit: then nothing is dropped.
        gate_after_dropping: whether the steps of ``gates`` see only the assignments that were kept.
        losses: auxiliary losses, each with its own coefficient.
        balancer: balancing without a loss, updated after each optimizer step, or None.
        bias: whether the logits have a learned bias.
    """

    selection: Selection
    scores: type[Function] | Callable[[Tensor], Tensor] | None = Softmax
    choose_by: str = "scores"
    gates: tuple[Gate, ...] = (Gate(Renormalize),)
    gate_on: str = "output"
    noise: Noise | None = None
    capacity: Capacity | None = None
    gate_after_dropping: bool = False
    losses: tuple[Loss, ...] = ()
    balancer: Balancer | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        for setting, allowed in (("choose_by", ("scores", "logits")), ("gate_on", ("output", "input"))):
            if getattr(self, setting) not in allowed:
                raise ValueError(f"{setting} must be {allowed[0]} or {allowed[1]}, got {getattr(self, setting)!r}")
        names = [loss.name for loss in self.losses]
        if len(set(names)) < len(names):
            raise ValueError(f"the losses of a router need different names, got {', '.join(names)}")

    def per_token(self, num_experts: int) -> float:
        """The experts that a token asks for on average, k.

        Where the selection leaves their number to the scores, it is the one that the balancer steers towards.
        """
        target = None if self.balancer is None else self.balancer.target
        if self.selection.fixed or target is None:
            return self.selection.per_token(num_experts)
        return min(target, num_experts)


class SinceStep(NamedTuple):
    """What the forward passes since the last optimizer step added up to."""

    load: Any = 0  # assignments that each expert was asked for
    observed: Any = 0  # what the balancer observed
    passes: int = 0  # how many it observed


class _Admitted(NamedTuple):
    """What capacity left of the candidates."""

    order: Int[Array, " N"]  # which they are
    expert: Int[Array, " N"]
    offsets: Int[Array, " E1"]
    kept: Bool[Array, " N"] | None = None  # None if all of them are
    fits: Bool[Array, " M"] | None = None
    capacity: int | Int[Array, " M"] | None = None


class Router(Module):
    """h = x W_gᵀ, then the pipeline of a :class:`RouterConfig`.

    Args:
        config: the parts of the pipeline.
        d_model: width d of a token.
        num_experts: E.
        rng: draws the weight W_g [E, d] from N(0, 1/d).
        dtype: of the weight. Logits and everything after them are float32 or wider.

    Attributes:
        communicator: where several ranks share a batch: their routers then decide together, as one would.
        balance_scope: ``"global"``, losses of the whole batch, or ``"local"``, the mean of the ranks' losses.
        name: for the tally of the ranks.

    Raises:
        ValueError: a setting does not fit ``num_experts``.
    """

    def __init__(
        self,
        config: RouterConfig,
        d_model: int,
        num_experts: int,
        *,
        rng: Random,
        dtype: Any = np.float32,
    ):
        config.selection.validate(num_experts)
        self.config = config
        self.num_experts = num_experts
        self.weight = normal(rng, (num_experts, d_model), d_model**-0.5, dtype)
        self.bias = constant(rng, num_experts, 0, dtype) if config.bias else None
        learned = config.noise is not None and config.noise.learned
        self.noise_weight = Parameter(np.zeros((num_experts, d_model), dtype), decay=True) if learned else None
        self.balancer_state: Any = None if config.balancer is None else Buffer(config.balancer.initial(num_experts))
        self.since_step = SinceStep()
        self.communicator: Communicator | None = None
        self.balance_scope = "global"
        self.name = ""

    @property
    def per_token(self) -> float:
        """The experts that a token asks for on average, k."""
        return self.config.per_token(self.num_experts)

    def forward(self, x: Float[Tensor, "T d"], batch: Batch) -> Routing:
        """Route T tokens. Noise and balancing follow ``batch.training``.

        On one of several ranks, see :attr:`communicator`, all of them together.
        """
        if self.communicator is None:
            return self._routing(*self._logits(x, batch), batch)
        whole = WholeBatch.of(self.communicator, x.shape[0], batch)
        h, noisy, sigma = self._logits(x, whole.of_own(batch))
        logits = whole.gather(h, "logits")
        noisy = logits if noisy is h else whole.gather(noisy, "noisy logits")
        sigma = None if sigma is None else whole.gather(sigma, "noise")
        routing = self._routing(logits, noisy, sigma, whole.batch)
        whole.note(self.name, [routing.gate, routing.auxiliary_loss])
        return routing.of_tokens(whole.own)

    def _routing(
        self,
        logits: Float[Tensor, "T E"],
        noisy: Float[Tensor, "T E"],
        sigma: Float[Tensor, "T E"] | None,
        batch: Batch,
    ) -> Routing:
        """The pipeline from logits on."""
        scores, num_tokens = self._scores(noisy), logits.shape[0]
        candidates, chosen_by = self._choose(scores, noisy, batch)
        picked, gate, candidates = self._gate(scores, candidates)
        admitted = self._admit(candidates, scores.data, batch)
        token = take_rows(candidates.token, admitted.order)
        load = candidates.load(self.num_experts)
        since_update = self.since_step.load + load
        trace = RoutingTrace(logits, noisy, sigma, scores, gate, candidates, load, since_update, self.per_token, batch)
        losses, auxiliary = self._losses(trace)
        if batch.training:
            self._observe(trace, chosen_by)
        return Routing(
            token=token,
            expert=admitted.expert,
            gate=self._gate_of_admitted(picked, gate, token, admitted, num_tokens),
            offsets=admitted.offsets,
            num_tokens=num_tokens,
            gate_on=self.config.gate_on,
            losses=losses,
            auxiliary_loss=auxiliary,
            statistics=Statistics(
                load, scores.data, candidates, admitted.fits, admitted.capacity, batch.modality_of_tokens
            ),
            trace=trace,
        )

    def after_step(self) -> None:
        """Update the balancing state with what was observed since the last optimizer step, and reset the counters."""
        if self.config.balancer is not None and self.since_step.passes:
            state = self.balancer_state.data
            state[...] = self.config.balancer.update(state, self.since_step.observed, self.since_step.passes)
        self.forget_passes()

    def forget_passes(self) -> None:
        """Reset the counters."""
        self.since_step = SinceStep()

    def _logits(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """h [T, E], h with noise, and the noise's standard deviation where it is normal."""
        noise = self.config.noise if batch.training else None
        if noise is None:
            narrow = min(x.dtype.itemsize, self.weight.dtype.itemsize) < 4
            h = (WideAffine if narrow else Affine).apply(x, self.weight, self.bias)
            return h, h, None
        weight, bias, noise_weight = (
            None if p is None else at_least_float32(p) for p in (self.weight, self.bias, self.noise_weight)
        )
        x = noise.on_input(at_least_float32(x), batch.need_rng(noise))
        h = Affine.apply(x, weight, bias)
        return h, *noise.on_logits(h, x, noise_weight, batch.need_rng(noise))

    def _scores(self, logits: Tensor) -> Tensor:
        scoring = self.config.scores
        if scoring is None:
            return logits
        apply: Any = getattr(scoring, "apply", scoring)
        scores: Tensor = apply(logits)
        return scores

    def _choose(self, scores: Tensor, noisy: Tensor, batch: Batch) -> tuple[Candidates, Float[Array, "T E"]]:
        """The candidates, token by token, and the values they were chosen by. The choice carries no gradient."""
        chosen_by = scores.data if self.config.choose_by == "scores" else noisy.data
        if self.config.balancer is not None:
            chosen_by = self.config.balancer.shift(chosen_by, self.balancer_state.data)
        return self.config.selection.of_batch(chosen_by, batch).listed_by_token(len(chosen_by)), chosen_by

    def _gate(self, scores: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor, Candidates]:
        """The scores and the gate weights of the candidates that are sent, and those candidates; on a GPU, of all."""
        picked = PickScores.apply(scores, candidates.token, candidates.expert)
        gate = self._normalise(picked, candidates.token, scores.shape[0])
        if candidates.sent is None:
            return picked, gate, candidates
        index, sent = where_true(candidates.sent)
        if sent is not None:
            return picked, LeaveOut.apply(gate, sent), candidates
        token, expert, rank = (a[index] for a in (candidates.token, candidates.expert, candidates.rank))
        of_sent = Candidates(token, expert, rank, by_token=candidates.by_token)
        return KeepAssignments.apply(picked, index), KeepAssignments.apply(gate, index), of_sent

    def _normalise(self, s: Tensor, token: Int[Array, " N"], num_tokens: int) -> Tensor:
        for step in self.config.gates:
            s = step(s, token, num_tokens)
        return s

    def _admit(self, candidates: Candidates, scores: Float[Array, "T E"], batch: Batch) -> "_Admitted":
        """The candidates that find a place, by expert, then by token; on a GPU the others behind them."""
        capacity, num_experts, expert = self.config.capacity, self.num_experts, candidates.expert
        fits, size = candidates.sent, None
        if capacity is not None:
            fits, size = capacity.admits(candidates, scores, self.per_token, batch)
        if fits is None:
            order, offsets = sort_by_key(expert, num_experts)
            return _Admitted(order, take_rows(expert, order), offsets)
        index, listed = where_true(fits)
        if listed is None:
            order, offsets = sort_by_key(take_rows(expert, index), num_experts)
            order = take_rows(index, order)
            return _Admitted(order, take_rows(expert, order), offsets, None, fits, size)
        expert = array_namespace(expert).where(listed, expert, num_experts)
        order, offsets = sort_by_key(expert, num_experts + 1)
        expert = take_rows(expert, order)
        return _Admitted(order, expert, offsets[:-1], expert < num_experts, fits, size)

    def _gate_of_admitted(
        self, picked: Tensor, gate: Tensor, token: Int[Array, " N"], admitted: "_Admitted", num_tokens: int
    ) -> Tensor:
        """Their gate weights. Dropped ones that are still listed are normalised like those of one more token."""
        kept = admitted.kept
        if not self.config.gate_after_dropping:
            gate = KeepAssignments.apply(gate, admitted.order)
        elif kept is None:
            gate = self._normalise(KeepAssignments.apply(picked, admitted.order), token, num_tokens)
        else:
            token = array_namespace(token).where(kept, token, num_tokens)
            gate = self._normalise(KeepAssignments.apply(picked, admitted.order), token, num_tokens + 1)
        return gate if kept is None else LeaveOut.apply(gate, kept)

    def _losses(self, trace: RoutingTrace) -> tuple[dict[str, Tensor], Tensor | None]:
        """The losses by name without coefficients, and their weighted sum."""
        losses: dict[str, Tensor] = {}
        total: Tensor | None = None
        seen = [trace]
        if self.balance_scope == "local" and trace.batch.shares is not None:
            seen = [trace.of_tokens(mine, batch) for mine, batch in trace.batch.of_ranks()]
        for part in self.config.losses:
            losses[part.name] = _mean([part(each) for each in seen])
            term = losses[part.name] * part.coefficient
            total = term if total is None else total + term
        if self.config.balancer is not None:
            own = self.config.balancer.loss(trace, self.balancer_state.data)
            if own is not None:
                losses["balancing"] = own
                total = own if total is None else total + own
        return losses, total

    def _observe(self, trace: RoutingTrace, chosen_by: Float[Array, "T E"]) -> None:
        """Collect what the balancer needs after the optimizer step, once the whole forward pass has succeeded.

        A pass without tokens moves nothing.
        """
        if trace.logits.shape[0] == 0:
            return
        load, balancer = trace.load, self.config.balancer
        seen = None if balancer is None else balancer.observe(trace, chosen_by, self.balancer_state.data)

        def note() -> None:
            before = self.since_step
            observed, passes = before.observed, before.passes
            if seen is not None:
                observed, passes = observed + seen, passes + 1
            self.since_step = SinceStep(before.load + load, observed, passes)

        after_forward(note)


def _mean(losses: list[Tensor]) -> Tensor:
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total if len(losses) == 1 else total / len(losses)
