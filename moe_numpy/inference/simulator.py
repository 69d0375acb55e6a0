"""Replaying a trace: how many requests a cache of a given size would have answered from memory, by policy.

The store's own bookkeeping runs, without its bytes. Besides the policies there is the best possible one, which knows
the whole trace: the expert leaves that is needed again last (Belady 1966).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..typing import Array
from .counts import LayerCounts, total
from .policies import POLICIES, History, Policy, policy_named
from .prefill import prefill_order
from .residency import Residency
from .traces import Trace

BEST = "best"

Order = Callable[[Mapping[int, int], Collection[int]], Sequence[int]]


@dataclass(frozen=True)
class Simulated:
    """What a cache would have done.

    Attributes:
        policy: its name.
        budget: bytes of its slots.
        num_slots: how many.
        counts: by layer.
    """

    policy: str
    budget: int
    num_slots: int
    counts: Mapping[int, LayerCounts]

    @property
    def total(self) -> LayerCounts:
        """Of all layers."""
        return total(self.counts.values())


def simulate(trace: Trace, policy: str, budget: int, *, order: Order = prefill_order) -> Simulated:
    """Replay a trace.

    Args:
        trace: the requests.
        policy: a name from :data:`moe_numpy.inference.POLICIES`, or ``"best"``.
        budget: bytes of memory for slots.
        order: in which the experts of a step of several tokens are used, given their rows and those in memory.

    Raises:
        ValueError: there is no such policy, or the budget is below what one request needs.
    """
    num_slots = min(budget // trace.slot_bytes, max(trace.num_experts, 1))
    if num_slots < trace.at_once:
        raise ValueError(
            f"budget of {budget:,} bytes is too little: the {trace.at_once} experts that one request needs at once "
            f"take {trace.at_once * trace.slot_bytes:,}"
        )
    future = _Future(trace) if policy == BEST else None
    rule: Policy = future.furthest if future else policy_named(policy)
    residency = Residency(*_shape(trace), num_slots, rule)
    counts = {layer: LayerCounts() for layer in sorted(trace.expert_bytes)}
    for i, request in enumerate(trace.requests):
        layer, sizes, of_layer = request.layer, trace.expert_bytes[request.layer], counts[request.layer]
        coming = trace.requests[i + 1] if i + 1 < len(trace.requests) else None
        if coming is not None and coming.guess:
            residency.history.expect(coming.layer, coming.guess)
        groups: list[Sequence[int]] = [request.experts]
        if request.rows:
            rows = dict(zip(request.experts, request.rows, strict=True))
            groups = [[e] for e in order(rows, residency.present(layer))]
        for experts in groups:
            residency.release()
            missing = residency.request(layer, experts)
            if future:
                future.passed(i, layer, experts)
            of_layer.requests += len(experts)
            of_layer.hits += len(experts) - len(missing)
            of_layer.bytes_read += sum(sizes[e] for e in missing)
    return Simulated(policy, num_slots * trace.slot_bytes, num_slots, counts)


def compare(trace: Trace, count: int = 10) -> dict[str, list[Simulated]]:
    """The trace replayed with every policy and the best possible one, by name: ``count`` budgets from the least to all.

    Each budget is a multiple of the slot, and the same for all policies.
    """
    slots = sorted({round(n) for n in np.linspace(trace.at_once, max(trace.num_experts, trace.at_once), count)})
    return {policy: [simulate(trace, policy, n * trace.slot_bytes) for n in slots] for policy in (*POLICIES, BEST)}


def _shape(trace: Trace) -> tuple[int, int]:
    """L and E of the tables: layers are numbered as in the model."""
    return 1 + max(trace.expert_bytes, default=0), max(map(len, trace.expert_bytes.values()), default=1)


class _Future:
    """When each expert is needed next."""

    def __init__(self, trace: Trace):
        self._uses: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i in reversed(range(len(trace.requests))):
            request = trace.requests[i]
            for e in request.experts:
                self._uses[request.layer, e].append(i)
        self._next = np.full(_shape(trace), len(trace.requests), np.int64)
        self._never = len(trace.requests)
        for key, uses in self._uses.items():
            self._next[key] = uses[-1]

    def passed(self, i: int, layer: int, experts: Sequence[int]) -> None:
        """Request i has used these."""
        for e in experts:
            uses = self._uses[layer, e]
            while uses and uses[-1] <= i:
                uses.pop()
            self._next[layer, e] = uses[-1] if uses else self._never

    def furthest(self, history: History) -> tuple[Array, Any]:
        """The policy: what is needed last leaves; of several, the least recently used."""
        return -self._next, history.last_use
