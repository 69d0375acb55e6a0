"""On how many devices and nodes the experts of a token are, if every set of experts is equally likely."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import comb


@dataclass(frozen=True)
class Reach:
    """Expected numbers for one token in one layer, its own device and node included if they have one of its experts.

    Attributes:
        devices: that have at least one of its experts.
        nodes: likewise.
    """

    devices: float
    nodes: float


@cache
def reach(shards: tuple[int, ...], nodes: int, top_k: int, node_limit: int | None = None) -> Reach:
    """The expected number of distinct devices and nodes with one of a token's k experts.

    A device with e of the n experts that a token may use has at least one of its k with probability
    1 - C(n - e, k) / C(n, k) (hypergeometric); the expectation is the sum over devices. Without a limit n = E. With a
    limit of M nodes, all sets of M of the N nodes are equally likely, n is the number of experts on them, and devices
    elsewhere have none: a node is in 1/C(N, M) of the sets for each choice of the M - 1 others.

    That is a model of node-limited routing (DeepSeek-V3 2024, section 2.1.2). The router itself takes the nodes with
    the best experts, so a chosen node is left without an expert less often.

    Args:
        shards: experts of each device; neighbours form a node.
        nodes: N, a divisor of the number of devices.
        top_k: k.
        node_limit: M; None for N.

    Raises:
        ValueError: nodes does not divide the devices, or k or M is out of range: M nodes, the emptiest ones included,
            must have k experts.
    """
    if nodes < 1 or len(shards) % nodes:
        raise ValueError(f"nodes must divide the {len(shards)} devices, got {nodes}")
    if not 1 <= top_k <= sum(shards):
        raise ValueError(f"top_k must be between 1 and num_experts={sum(shards)}, got {top_k}")
    usable, each = nodes if node_limit is None else node_limit, len(shards) // nodes
    held = [sum(shards[n * each : (n + 1) * each]) for n in range(nodes)]
    enough = [m for m, experts in enumerate(accumulate(sorted(held)), 1) if experts >= top_k]
    if usable not in enough:
        raise ValueError(f"node_limit must be between {enough[0]} and nodes={nodes}, got {usable}")

    by_size = {size: _totals(_without(held, size), usable - 1) for size in set(held)}

    def hit(own: int, node: int) -> float:
        """The probability that one of the k experts is among ``own`` of the experts of a node with ``node``."""
        found = sum(
            ways * (1 - comb(node + others - own, top_k) / comb(node + others, top_k))
            for others, ways in by_size[node].items()
        )
        return found / comb(nodes, usable)

    devices = Counter((own, held[i // each]) for i, own in enumerate(shards))
    return Reach(
        devices=sum(times * hit(own, node) for (own, node), times in devices.items()),
        nodes=sum(times * hit(node, node) for node, times in Counter(held).items()),
    )


def _without(held: Sequence[int], size: int) -> list[int]:
    rest = list(held)
    rest.remove(size)
    return rest


def _totals(held: Sequence[int], chosen: int) -> Counter[int]:
    """In how many ways ``chosen`` of these nodes have so many experts together, by that number."""
    ways = Counter({(0, 0): 1})  # by the number of nodes and of their experts
    for size, nodes in Counter(held).items():
        grown = Counter[tuple[int, int]]()
        for (taken, total), times in ways.items():
            for more in range(min(nodes, chosen - taken) + 1):
                grown[taken + more, total + more * size] += times * comb(nodes, more)
        ways = grown
    return Counter({total: times for (taken, total), times in ways.items() if taken == chosen})
