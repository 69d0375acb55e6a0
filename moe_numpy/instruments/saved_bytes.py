"""What a forward pass keeps for backward, in bytes: counted from the graph, and by formula for each dispatch strategy.

With float size s, integer size i, N = kT assignments and C the largest number of assignments of any expert, SwiGLU
experts of width f keep, besides the tokens, the gate weights and the parameters:

    loop    s N (2d + 3f) + i N                     rows, two halves, their product, answers: expert by expert
    onehot  s (2 T E C + E C (2d + 3f)) + ...       two masks; buffers with padding
    padded  s (E C (d + 3f) + N d) + ...            buffers with padding; the answers without
    sorted  s N (2d + 3f) + ...                     rows, both halves, their product, answers

and a few integers for each assignment. The mask of ``onehot`` grows with T², since C grows with T.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..autodiff import Function, Tensor
from ..moe.dispatch import STRATEGIES, Experts
from ..moe.routing import Routing
from ..typing import Float
from .graph_walk import functions_of
from .text_table import text_table


@dataclass(frozen=True)
class SavedBytes:
    """Bytes that a graph keeps for backward, by the Function that keeps them.

    An array that several Functions keep is counted once, at the one closest to the result. A view counts as the
    whole array it belongs to. Leaves (parameters, inputs) are not counted: they exist anyway.
    """

    by_function: Mapping[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.by_function.values())

    def as_json(self) -> dict[str, Any]:
        """Numbers and strings only."""
        return {"total": self.total, "by_function": dict(self.by_function)}

    def __str__(self) -> str:
        rows = [[name, f"{n:,}"] for name, n in self.by_function.items() if n]
        return text_table(["saved by", "bytes"], [*rows, ["all", f"{self.total:,}"]])


def saved_bytes(root: Tensor) -> SavedBytes:
    """Walk the graph of ``root`` and add up the distinct arrays that its Functions saved.

    Raises:
        ValueError: ``root`` has no graph.
    """
    functions = functions_of(root)
    leaves = {id(_owner(edge.source.data)) for f in functions for edge in f.edges if edge and edge.is_leaf}
    seen = set(leaves)
    total: Counter[str] = Counter()
    for function in functions:
        for array in _kept(function):
            owner = _owner(array)
            if id(owner) not in seen:
                seen.add(id(owner))
                total[function.name] += owner.nbytes
    return SavedBytes(dict(total))


@dataclass(frozen=True)
class DispatchRow:
    """One strategy: its formula in words, its bytes for floats and for integers by formula."""

    strategy: str
    formula: str
    float_bytes: int
    index_bytes: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.float_bytes + self.index_bytes


@dataclass(frozen=True)
class DispatchTable:
    """The answer of :func:`dispatch_table`, with the sizes it was made for."""

    T: int
    d: int
    f: int
    E: int
    k: float
    C: int
    rows: tuple[DispatchRow, ...]

    def __getitem__(self, strategy: str) -> DispatchRow:
        return {row.strategy: row for row in self.rows}[strategy]

    def as_json(self) -> dict[str, Any]:
        """Numbers and strings only."""
        return asdict(self)

    def __str__(self) -> str:
        sizes = f"T={self.T} d={self.d} f={self.f} E={self.E} k={self.k:g} C={self.C}"
        rows = [[r.strategy, r.formula, f"{r.total:,}"] for r in self.rows]
        return f"{sizes}\n" + text_table(["strategy", "numbers saved, without indices", "bytes"], rows)


# Floats and integers that SwiGLU experts and the strategy around them keep. N is k T.
_FORMULAS: Mapping[str, tuple[str, Callable[..., int], Callable[..., int]]] = {
    "loop": (
        "k T (2 d + 3 f)",
        lambda T, d, f, E, N, C: N * (2 * d + 3 * f),
        lambda T, E, N: N,
    ),
    "onehot": (
        "2 T E C + E C (2 d + 3 f)",
        lambda T, d, f, E, N, C: 2 * T * E * C + E * C * (2 * d + 3 * f),
        lambda T, E, N: 3 * N + E + 1,
    ),
    "padded": (
        "E C (d + 3 f) + k T d",
        lambda T, d, f, E, N, C: E * C * (d + 3 * f) + N * d,
        lambda T, E, N: 2 * N + E + 1,
    ),
    "sorted": (
        "k T (2 d + 3 f)",
        lambda T, d, f, E, N, C: N * (2 * d + 3 * f),
        lambda T, E, N: N + E + 1,
    ),
}


def dispatch_table(
    T: int, d: int, f: int, E: int, k: float, C: int, *, float_size: int = 4, index_size: int = 8
) -> DispatchTable:
    """Bytes by formula for SwiGLU experts.

    Args:
        T: tokens.
        d: width of a token.
        f: width of an expert.
        E: experts.
        k: experts per token; kT assignments are kept, so with dropping k is the average that remains.
        C: the largest number of assignments of any expert; kT/E at perfect balance.
        float_size: bytes of a number.
        index_size: bytes of an integer.

    Raises:
        ValueError: a size is not positive, or E experts of C places cannot hold kT assignments.
    """
    for name, value in (("T", T), ("d", d), ("f", f), ("E", E), ("k", k), ("C", C)):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    assignments = round(k * T)
    if assignments > E * C:
        raise ValueError(f"C must be at least k T / E = {assignments / E:g}, got {C}")
    rows = tuple(
        DispatchRow(
            strategy,
            formula,
            float_size * floats(T, d, f, E, assignments, C),
            index_size * integers(T, E, assignments),
        )
        for strategy, (formula, floats, integers) in _FORMULAS.items()
    )
    return DispatchTable(T, d, f, E, k, C, rows)


def saved_by_dispatch(strategy: str, x: Float[Any, "T d"], routing: Routing, experts: Experts) -> SavedBytes:
    """What one strategy and the experts actually keep, without the router: counted from the graph.

    Args:
        strategy: a name from :data:`moe_numpy.moe.dispatch.STRATEGIES`.
        x: the tokens, an array.
        routing: where they go; its gate weights become a leaf.
        experts: the experts.
    """
    gate = Tensor(routing.gate.data, requires_grad=True)
    tokens = Tensor(x, requires_grad=True)
    return saved_bytes(STRATEGIES[strategy](tokens, replace(routing, gate=gate), experts))


def _kept(function: Function) -> list[np.ndarray]:
    """Arrays that a Function holds on to: saved, or as a setting such as an index."""
    values = [v for value in vars(function).values() for v in (value if isinstance(value, tuple) else (value,))]
    return [v for v in values if isinstance(v, np.ndarray)]


def _owner(array: Any) -> Any:
    """The array whose memory a view looks into."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
