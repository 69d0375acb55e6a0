"""Experts by modality: which pool of experts the tokens of a modality choose from, with a router for each.

Text tokens choose among the first experts, image patches among the last; a middle that both have is the overlap of
the pools. Isolated pools are those of ERNIE-4.5-VL (Baidu 2025, section 2), where shared experts join them. One pool
for all with a single router, as in LIMoE (Mustafa et al. 2022), needs nothing of this: it is a plain layer.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..kernels import count, stable_order
from ..ops import Concatenate
from ..typing import Array, Float, Int
from .capacity import KeepAssignments
from .router import Router
from .routing import Batch, Candidates, Routing, RoutingTrace, Statistics

MODALITIES = ("text", "image")
Pools: TypeAlias = tuple[tuple[int | None, int | None], ...]


def pools_of(pools: Pools, num_experts: int) -> list[range]:
    """The experts of each modality. ValueError for a pool without experts."""
    found = [range(num_experts)[slice(*pool)] for pool in pools]
    for name, pool, given in zip(MODALITIES, found, pools, strict=False):
        if not pool:
            raise ValueError(f"the {name} pool {given} of num_experts={num_experts} has no experts")
    if found and (len(found) != len(MODALITIES) or found[0].start):
        raise ValueError(f"pools must be one per modality, {', '.join(MODALITIES)}, the first from expert 0: {pools}")
    return found


def route_in_pools(
    routers: Sequence[Router], pools: Sequence[range], x: Float[Tensor, "T d"], batch: Batch, num_experts: int
) -> Routing:
    """Route the tokens of each modality with its own router to its own experts: one routing over all experts.

    A batch of text alone is routed by the first router as if the other experts did not exist, bit for bit.

    The trace lists all candidates; its logits and scores are constants, -∞ and 0 where a token may not go.
    """
    if batch.modality is None:
        return _among(routers[0](x, batch), num_experts)
    mine, batches = zip(*(batch.of_modality(m) for m in range(len(pools))), strict=True)
    parts = [router(x[index], of_one) for router, index, of_one in zip(routers, mine, batches, strict=True)]
    xp, num_tokens = array_namespace(x.data), x.shape[0]
    numbers = [xp.asarray(index) for index in mine]

    starts = [pool.start for pool in pools]
    kept = [part.only_kept() for part in parts]
    token = xp.concat([n[part.token] for n, part in zip(numbers, kept, strict=True)])
    expert = xp.concat([part.expert + start for start, part in zip(starts, kept, strict=True)])
    order = stable_order(token, max(num_tokens, 1))
    order = order[stable_order(expert[order], num_experts)]
    load_of_kept = count(expert, num_experts)
    gate = KeepAssignments.apply(Concatenate.apply(*(part.gate for part in kept), axis=0), order)

    statistics = [part.statistics for part in parts]
    traces = [_own(part, of_one) for part, of_one in zip(parts, batches, strict=True)]
    asked = Candidates(
        xp.concat([n[each.asked.token] for n, each in zip(numbers, statistics, strict=True)]),
        xp.concat([each.asked.expert + start for start, each in zip(starts, statistics, strict=True)]),
        xp.concat([each.asked.rank for each in statistics]),
    )
    fits, capacity = _capacities(statistics)
    load = asked.load(num_experts)
    scores, logits = np.zeros((2, num_tokens, num_experts), x.dtype if x.dtype.itemsize > 2 else np.float32)
    logits[:] = -np.inf
    for index, pool, trace in zip(mine, pools, traces, strict=True):
        scores[index, pool.start : pool.stop] = trace.scores.data
        logits[index, pool.start : pool.stop] = trace.logits.data
    since = sum(_padded(t.load_since_update, p.start, num_experts) for t, p in zip(traces, pools, strict=True))
    losses = {f"{name} {loss}": v for name, p in zip(MODALITIES, parts, strict=True) for loss, v in p.losses.items()}
    auxiliary = [part.auxiliary_loss for part in parts if part.auxiliary_loss is not None]
    h = Tensor(xp.asarray(logits))
    return Routing(
        token=token[order],
        expert=expert[order],
        gate=gate,
        offsets=xp.concat([xp.zeros(1, dtype=load_of_kept.dtype), xp.cumsum(load_of_kept)]),
        num_tokens=num_tokens,
        gate_on=parts[0].gate_on,
        losses=losses,
        auxiliary_loss=sum(auxiliary[1:], auxiliary[0]) if auxiliary else None,
        statistics=Statistics(load, scores, asked, fits, capacity, batch.modality_of_tokens),
        trace=RoutingTrace(
            logits=h,
            noisy=h,
            sigma=None,
            scores=Tensor(xp.asarray(scores)),
            gate=Concatenate.apply(*(trace.gate for trace in traces), axis=0),
            candidates=asked,
            load=load,
            load_since_update=since,
            per_token=traces[0].per_token,
            batch=batch,
        ),
        first_token=sum(part.first_token for part in parts),
        all_kept=True,
    )


def _own(routing: Routing, batch: Batch) -> RoutingTrace:
    """The trace of this rank's tokens."""
    first, trace = routing.first_token, routing.trace
    if trace.logits.shape[0] == routing.num_tokens:
        return trace
    return trace.of_tokens(slice(first, first + routing.num_tokens), batch)


def _among(routing: Routing, num_experts: int) -> Routing:
    """A routing to the first experts as one to all: the others have no assignments."""
    xp = array_namespace(routing.offsets)
    more = num_experts - routing.num_experts
    ends = xp.zeros(more, dtype=routing.offsets.dtype) + routing.offsets[-1]
    statistics = routing.statistics
    scores = xp.concat(
        [statistics.scores, xp.zeros((len(statistics.scores), more), dtype=statistics.scores.dtype)], axis=1
    )
    widened = replace(statistics, load=_padded(statistics.load, 0, num_experts), scores=scores)
    return replace(routing, offsets=xp.concat([routing.offsets, ends]), statistics=widened)


def _padded(load: Int[Array, " n"], start: int, num_experts: int) -> Int[Array, " E"]:
    """The load of a pool that begins at ``start``, among all experts."""
    xp = array_namespace(load)
    whole = xp.zeros(num_experts, dtype=load.dtype)
    whole[start : start + len(load)] = load
    return whole


def _capacities(statistics: Sequence[Statistics]) -> tuple[Array | None, Array | None]:
    """Which candidates found a place, and the places of their experts; None where all routers have no limit."""
    if all(each.fits is None for each in statistics):
        return None, None
    xp = array_namespace(statistics[0].load)
    num = [len(each.asked.token) for each in statistics]
    fits = [xp.ones(n, dtype=bool) if s.fits is None else s.fits for n, s in zip(num, statistics, strict=True)]
    sizes = [
        xp.zeros(n, dtype=np.int64) + (0 if s.capacity is None else s.capacity)
        for n, s in zip(num, statistics, strict=True)
    ]
    return xp.concat(fits), xp.concat(sizes)
