"""Rows and bytes that go from device to device for one token in one sparse layer, by the link that they take."""

from dataclasses import dataclass

from ..costs import in_bytes
from .layout import Layout, shards
from .reach import reach

#: What is sent: one row for each chosen expert, for each distinct device, or between nodes for each distinct node.
COPIES = ("expert", "device", "node")


@dataclass(frozen=True)
class Links:
    """An amount on the links within nodes, and one on those between nodes."""

    within: float
    between: float

    @property
    def total(self) -> float:
        """within + between."""
        return self.within + self.between

    def __mul__(self, times: float) -> "Links":
        return Links(self.within * times, self.between * times)


def rows_sent(
    layout: Layout, num_experts: int, top_k: int, copies: str = "node", node_limit: int | None = None
) -> Links:
    """Expected rows of width d that one token sends in the dispatch of one layer; the combine sends as many back.

    With N nodes of D/N devices that share the experts, tokens that live on each device equally often, and
    :func:`reach` r_D devices and r_N nodes:

        copies    between nodes      within a node
        expert    k (N - 1)/N        k (1/N - 1/D)
        device    r_D (N - 1)/N      r_D (1/N - 1/D)
        node      r_N (N - 1)/N      r_D (1 - N/D)

    In the last line a row goes once to each node, to the device with the sender's number, which forwards it to the
    others of its node (DeepSeek-V3 2024, section 3.2.2). Answers to the same token are added on the way back.

    Raises:
        ValueError: copies is unknown, or :func:`reach` refuses.
    """
    if copies not in COPIES:
        raise ValueError(f"copies must be one of {', '.join(COPIES)}, got {copies!r}")
    devices, nodes = layout.expert_parallel, layout.expert_nodes
    reached = reach(shards(num_experts, devices), nodes, top_k, None if node_limit is None else min(node_limit, nodes))
    if copies == "node":
        return Links(reached.devices * (1 - nodes / devices), reached.nodes * (nodes - 1) / nodes)
    sent = reached.devices if copies == "device" else top_k
    return Links(sent * (1 / nodes - 1 / devices), sent * (nodes - 1) / nodes)


def bytes_sent(rows: Links, d_model: int, dispatch: str, combine: str) -> Links:
    """Bytes of one token in one layer in the forward pass; the backward pass sends as much.

    rows · d · (bytes of a dispatched number + bytes of a combined one): what is dispatched comes back. The gradients
    of the answers go the way of the dispatch, those of the rows the way of the combine, in the same types
    (DeepSeek-V3 2024, section 3.3.3). Not counted: expert ids, gate weights, and scales of 8-bit rows (3 % of them with
    one float32 per 128 numbers).

    Raises:
        ValueError: a type is not in :data:`moe_numpy.accounting.BITS`.
    """
    return rows * (in_bytes(d_model, dispatch) + in_bytes(d_model, combine))
