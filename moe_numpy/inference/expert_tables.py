"""Where the matrices of all experts are, for products that find them by number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..formats import Matrix
from ..typing import Array, Float
from .program import Groups, Program


class ExpertTable:
    """One matrix of each expert, all of one format and shape, anywhere in memory.

    Args:
        matrices: by expert.
        rows: which rows of the answer they compute; None for all.
        bias: [E, out], or None.
    """

    def __init__(
        self, matrices: Sequence[Matrix], rows: slice | None = None, bias: Float[Array, "E out"] | None = None
    ):
        self.matrices, self.bias = list(matrices), bias
        self.shape = matrices[0].shape
        self.rows = slice(0, self.shape[0]) if rows is None else rows
        self.even_first = bool(matrices[0].even_first)
        self._addresses: Any = None
        self._loops: Any = None

    def __getitem__(self, expert: int) -> Matrix:
        return self.matrices[expert]

    def put(self, expert: int, matrix: Matrix) -> None:
        """The matrix of an expert is this one from now on; it differs in nothing but its address."""
        self.matrices[expert] = matrix
        if self._loops is not None:
            self._addresses[expert] = self._loops.operands(matrix)[1:5:2]

    @property
    def fits(self) -> bool:
        """Whether compiled products read them: alike in all but their addresses."""
        found = [m.operands for m in self.matrices]
        steps = {(*_step(o.codes), *_step(o.scales), o.scale_rows) for o in found}
        return len(steps) == 1 and all(o.compiled for o in found) and len({type(m) for m in self.matrices}) == 1

    def operands(self, loops: Any) -> tuple[int, ...]:
        """The fields of an instruction."""
        if self._addresses is None:
            self._loops = loops
            self._addresses = np.array([loops.operands(m)[1:5:2] for m in self.matrices], np.int64)
        kind, _, codes_step, _, scales_step, scale_rows, width = loops.operands(self.matrices[0])
        return kind, self._addresses.ctypes.data, codes_step, scales_step, scale_rows, width


@dataclass(frozen=True, eq=False)
class ExpertTables:
    """The experts of a layer: y = W₂ act(W₁ x + b₁) + b₂.

    Args:
        first: W₁, which may be several tables, each with some of its rows.
        second: W₂.
        activation: from the rows W₁ x + b₁ to those that W₂ takes.
        is_swiglu: whether it is silu(gate) ⊙ up of the halves of each row.
        before: called before each call of a program, with a key: of several layers with one key, one is called.
        fetch: called with the experts that rows chose, before their matrices are used; None if they are always there.
        most: experts that ``fetch`` can have in memory at once.
    """

    first: Sequence[ExpertTable]
    second: Sequence[ExpertTable]
    activation: Callable[[Any], Any]
    is_swiglu: bool
    before: tuple[Any, Callable[[], object]] | None = None
    fetch: Callable[[Array], object] | None = None
    most: int = 0

    def add_to(self, program: Program, x: Float[Array, "A d"], groups: Groups) -> Float[Array, "A d"]:
        """The answers of experts to rows in the order of :class:`Groups`, in a program."""
        width, parts = self.second[0].shape[1], len(self.first)
        hidden = program.room("after activation", len(x), width)
        if self.is_swiglu and [table.shape[0] for table in self.first] == [width, width]:
            gate, up = (program.room(f"before activation {i}", len(x), width) for i in range(parts))
            for table, part in zip(self.first, (gate, up), strict=True):
                program.product_of_experts(table, x, groups, part)
            program.swiglu(gate, up, hidden)
        else:
            h = program.room("before activation", len(x), sum(table.shape[0] for table in self.first))
            for table in self.first:
                program.product_of_experts(table, x, groups, h[:, table.rows])
            if self.is_swiglu:
                program.swiglu(h[:, :width], h[:, width:], hidden)
            else:
                program.call(lambda: np.copyto(hidden, self.activation(h)))
        y = program.room("answers", len(x), sum(table.shape[0] for table in self.second))
        for table in self.second:
            program.product_of_experts(table, program.packed(hidden, table), groups, y[:, table.rows])
        return y


@runtime_checkable
class HasTables(Protocol):
    """Experts whose matrices stay where they are."""

    def tables(self) -> ExpertTables | None:
        """Where; None if compiled products cannot read them."""


def tables_of(experts: Any) -> ExpertTables | None:
    """Where the matrices of experts are, if they stay there and compiled products read them."""
    tables = experts.tables() if isinstance(experts, HasTables) else None
    if tables is None or len({table.even_first for table in tables.first}) > 1:
        return None
    return tables if all(table.fits for table in (*tables.first, *tables.second)) else None


def _step(x: Any) -> tuple[int, ...]:
    return () if x is None else x.strides[:1]
