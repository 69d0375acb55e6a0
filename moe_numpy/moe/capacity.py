"""Who is dropped when an expert is full.

An expert with a fixed number of places, its capacity C, cannot take more than C assignments. What does not fit
is dropped: that token gets nothing from that expert, and the residual connection around the layer carries it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from array_api_compat import array_namespace

from ..autodiff import Function, decisions
from ..kernels import position_by_key, scatter, stable_order, take_rows, to_host
from ..typing import Array, Bool, Float, Int
from .routing import Batch, Candidates


class KeepAssignments(Function):
    """g'_n = g[kept_n]: the gate weights of the assignments that stay, in the order in which experts take them."""

    def forward(self, gate: Float[Array, " M"], kept: Int[Array, " N"]) -> Float[Array, " N"]:
        """Select, whatever the other weights are, infinite or NaN; ``kept`` names no assignment twice."""
        self.save(kept)
        self.num_candidates = gate.shape[0]
        return take_rows(gate, kept)

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """dg[kept_n] = dg'_n, and 0 for a dropped assignment: it changed nothing."""
        (kept,) = self.saved
        return scatter(grad, kept, self.num_candidates), None


class LeaveOut(Function):
    """g'_n = g_n where ``kept``, and 0 elsewhere: dropped assignments that are still listed, as on a GPU."""

    def forward(self, gate: Float[Array, " N"], kept: Bool[Array, " N"]) -> Float[Array, " N"]:
        self.save(kept)
        return array_namespace(gate).where(kept, gate, 0)

    def backward(self, grad: Float[Array, " N"]) -> tuple[Any, None]:
        """dg_n = dg'_n where ``kept``, and 0 elsewhere."""
        (kept,) = self.saved
        return array_namespace(grad).where(kept, grad, 0), None


# C for one expert, from T tokens, E experts, k per token and the factor; beside each formula, code that uses it.
# The guard keeps a product such as 1.1 · 100 = 110.00000000000001 from being rounded up to 111.
ROUNDING: Mapping[str, Callable[[int, int, float, float], int]] = {
    "ceil": lambda T, E, k, cf: math.ceil(cf * k * T / E - 1e-9),  # Megatron-LM; the default here
    "floor": lambda T, E, k, cf: int(cf * k * T / E + 1e-9),  # MegaBlocks
    "floor_without_k": lambda T, E, k, cf: int(T * cf / E + 1e-9),  # Mesh TensorFlow, for Switch
    "round_without_k": lambda T, E, k, cf: round(T * cf / E),  # Flaxformer, for ST-MoE; halves round to even
    "multiple_of_4": lambda T, E, k, cf: -(-math.ceil(cf * k * T / E - 1e-9) // 4) * 4,  # V-MoE
}
DROP = ("position", "probability", "batch_priority", "random")
SCOPES = ("batch", "rank", "sequence")


@dataclass(frozen=True)
class Capacity:
    """Each expert takes at most C assignments of each scope, C = ⌈factor · k · T / E⌉ by default.

    Attributes:
        factor: places relative to perfect balance; with 1 there is exactly enough room for perfectly even assignments.
        eval_factor: the same in evaluation; None for ``factor``.
        rounding: a name from :data:`ROUNDING`; public code differs.
        drop: who goes first in the queue before an expert.
            ``position``: all first choices before all second choices, earlier tokens before later ones (GShard).
            Megatron-LM's "position" has earlier tokens first whatever the rank: the same for k = 1.
            ``probability``: the highest score for this expert. Megatron-LM's "probs" ranks gate weights: the same
            unless they are renormalised.
            ``batch_priority``: all first choices before all second choices, tokens in the order of their best
            score (V-MoE, Riquelme et al. 2021, section 4.1).
            ``random``: any order, drawn for each scope by itself; by position in evaluation.
            Only ``position`` with one expert per token is causal: in every other queue a later token can come before
            an earlier one.
        scope: T is counted, and queues are formed, in the whole ``batch``, in each ``rank``'s part of it, in each
            ``sequence``, or in groups of a given number of tokens.

    T counts real tokens, so that padding takes no places and makes none. Mesh TensorFlow and Megatron-LM, whose shapes
    are fixed, count padded tokens too, and so have more places.
    """

    factor: float = 1.25
    rounding: str = "ceil"
    drop: str = "position"
    scope: str | int = "batch"
    eval_factor: float | None = None

    def __post_init__(self) -> None:
        for name, factor in (("capacity_factor", self.factor), ("eval_capacity_factor", self.eval_factor)):
            if factor is not None and not factor > 0:
                raise ValueError(f"{name} must be positive, got {factor}")
            if factor is not None and factor > 1e9:  # and infinity, whose capacity is no whole number
                raise ValueError(f"{name} must be at most 1e9, got {factor}; without a Capacity there is no limit")
        if self.rounding not in ROUNDING:
            raise ValueError(f"rounding must be one of {', '.join(ROUNDING)}, got {self.rounding!r}")
        if self.drop not in DROP:
            raise ValueError(f"drop must be one of {', '.join(DROP)}, got {self.drop!r}")
        if (self.scope not in SCOPES) if isinstance(self.scope, str) else self.scope < 1:
            raise ValueError(f"scope must be {', '.join(SCOPES)} or a positive number of tokens, got {self.scope!r}")

    def size(self, num_tokens: int, num_experts: int, per_token: float, training: bool = True) -> int:
        """C for a scope of this many tokens."""
        factor = self.factor if training or self.eval_factor is None else self.eval_factor
        return ROUNDING[self.rounding](num_tokens, num_experts, per_token, factor)

    def tokens_in_scope(self, num_tokens: int, batch: Batch) -> int:
        """How many tokens share the places of an expert."""
        if self.scope in ("batch", "rank"):
            return num_tokens
        if self.scope == "sequence" and batch.lengths is not None:
            raise ValueError(
                f"sequences of {min(batch.lengths)} to {max(batch.lengths)} tokens have no common capacity"
            )
        return batch.sequence_length if self.scope == "sequence" else int(self.scope)

    def admits(
        self, candidates: Candidates, scores: Float[Array, "T E"], per_token: float, batch: Batch
    ) -> tuple[Bool[Array, " M"], int | Int[Array, " M"]]:
        """Whether each candidate is sent and finds a place, and C; C of each where sequences, or ranks, differ in it.

        These ask one after the other, and the candidates must be listed by token.
        """
        num_tokens, num_experts = scores.shape
        parts = self._parts(batch)
        if not parts:
            size = self.size(self.tokens_in_scope(num_tokens, batch), num_experts, per_token, batch.training)
            return self._fits_if_sent(candidates, scores, size, batch), size
        xp = array_namespace(scores)
        stops = xp.asarray([mine.stop for mine, _ in parts])
        ends = to_host(xp.searchsorted(candidates.token, stops)).tolist()
        fits, sizes = [], []
        for start, stop, (mine, alone) in zip([0, *ends], ends, parts, strict=False):
            token, expert, rank = (a[start:stop] for a in (candidates.token, candidates.expert, candidates.rank))
            sent = None if candidates.sent is None else candidates.sent[start:stop]
            own = Candidates(token - mine.start, expert, rank, sent, by_token=True)
            found, size = self.admits(own, scores[mine], per_token, alone)
            fits.append(found)
            sizes.append(xp.full(stop - start, size))
        return xp.concatenate(fits), xp.concatenate(sizes)

    def _parts(self, batch: Batch) -> list[tuple[slice, Batch]]:
        """Tokens that share places, and a batch for them, where there are several such parts of different sizes."""
        if self.scope == "rank":
            return list(batch.of_ranks())
        return list(batch.sequences()) if self.scope == "sequence" else []

    def _fits_if_sent(
        self, candidates: Candidates, scores: Float[Array, "T E"], size: int, batch: Batch
    ) -> Bool[Array, " M"]:
        """The same as :meth:`fits`, where all are sent; the others queue for an expert that does not exist."""
        sent = candidates.sent
        if sent is None:
            return self.fits(candidates, scores, size, batch)
        xp = array_namespace(scores)
        asking = replace(candidates, expert=xp.where(sent, candidates.expert, scores.shape[1]))
        nobody = xp.full((len(scores), 1), -xp.inf, dtype=scores.dtype)
        return sent & self.fits(asking, xp.concat([scores, nobody], axis=1), size, batch)

    def fits(self, candidates: Candidates, scores: Float[Array, "T E"], size: int, batch: Batch) -> Bool[Array, " M"]:
        """Whether each candidate finds one of the ``size`` places of its expert.

        Candidates ask one after the other, in the order that ``drop`` says: with ``position``, all first choices
        (``rank`` 0) in the order of the list, then all second choices, and so on. The first ``size`` of them that
        ask for an expert find a place there. Every scope has its own places; with n = tokens_in_scope(T, batch)
        token t belongs to scope t // n.
        """
        num_tokens, num_experts = scores.shape
        order = self._queue(candidates, scores, batch)
        in_scope = max(self.tokens_in_scope(num_tokens, batch), 1)
        queue = (candidates.token // in_scope * num_experts + candidates.expert)[order]
        num_queues = max(-(-num_tokens // in_scope), 1) * num_experts
        place = scatter(position_by_key(queue, num_queues), order, len(order))
        fits = place < size
        decisions.record(
            "dropped assignments",
            fits,
            lambda m: (
                f"token {int(candidates.token[m])}, expert {int(candidates.expert[m])}: place {int(place[m])} of {size}"
            ),
        )
        return fits

    def _queue(self, candidates: Candidates, scores: Float[Array, "T E"], batch: Batch) -> Int[Array, " M"]:
        """The order in which candidates ask for a place."""
        xp = array_namespace(scores)
        if self.drop == "probability":
            return xp.argsort(-scores[candidates.token, candidates.expert], stable=True)
        if self.drop == "random" and batch.training:
            return self._drawn(candidates.token, scores.shape[0], batch)
        if self.drop == "batch_priority":
            return batch_priority_queue(candidates, scores)
        return _first_choices_first(candidates.rank, xp.arange(len(candidates.token)), scores.shape[1])

    def _drawn(self, token: Int[Array, " M"], num_tokens: int, batch: Batch) -> Int[Array, " M"]:
        """The candidates of one scope after the other, each scope's in an order of its own."""
        xp, in_scope = array_namespace(token), max(self.tokens_in_scope(num_tokens, batch), 1)
        order = xp.argsort(xp.asarray(batch.need_rng(self).random(len(token))), stable=True)
        return order[stable_order(token[order] // in_scope, max(-(-num_tokens // in_scope), 1))]


def batch_priority_queue(candidates: Candidates, scores: Float[Array, "T E"]) -> Int[Array, " M"]:
    """The queue of batch-prioritised routing: ``order[0]`` is the candidate that asks first.

    All first choices (``rank`` 0) come before all second choices, and so on. Among equal choices, tokens come in
    the order of their best score max_e scores[t, e], the largest first, whichever expert they ask for; of equal ones
    the first in the list (V-MoE, Riquelme et al. 2021, section 4.1).
    """
    best = scores.max(axis=1)[candidates.token]
    return _first_choices_first(candidates.rank, array_namespace(scores).argsort(-best, stable=True), scores.shape[1])


def _first_choices_first(rank: Int[Array, " M"], order: Int[Array, " M"], num_experts: int) -> Int[Array, " M"]:
    """The same order within each rank, with lower ranks before higher ones; no token has more choices than experts."""
    return order[stable_order(rank[order], num_experts)]
