"""What a model does with N rows, as a list of instructions: written down once, walked for every token.

The steps of a layer add to a program what they would compute: an instruction for
:mod:`moe_numpy.kernels.program_loops`, and its definition, which is called where nothing is compiled. Both work on the
same arrays, which the program owns. What has no instruction is a function of Python between two walks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..formats import Matrix
from ..kernels import sort_by_key
from ..moe.dispatch import combine
from ..ops import RMSNorm
from ..ops.activations import swiglu
from ..ops.attention import rotate
from ..typing import Array, Float, Int, Shaped
from .rows import Rows

_LINE = 64  # bytes: where arrays begin
_UNIT = 64  # rows of a weight matrix that a thread takes at once, at most
_SMALL = 1 << 15  # entries, or multiplications: some 10 µs, which threads do not share


class Rooms:
    """Memory that programs share of which one runs at a time: what one has left there, another may overwrite.

    Each array has a memory of its own, for the most rows that were asked for so far, to a power of 2.
    """

    def __init__(self) -> None:
        self._memories: dict[tuple[Any, ...], Array] = {}

    @property
    def nbytes(self) -> int:
        """All of it."""
        return sum(memory.nbytes for memory in self._memories.values())

    def room(self, name: str, *shape: int, dtype: Any) -> Shaped[Array, "..."]:
        """An array; the same memory as one of the same name with another number of rows."""
        width, key = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize, (name, shape[1:], np.dtype(dtype))
        memory = self._memories.get(key)
        if memory is None or memory.nbytes < shape[0] * width + _LINE:
            rows = 1 << max(shape[0] - 1, 0).bit_length()
            memory = self._memories[key] = np.zeros(rows * width + _LINE, np.uint8)
        start = -memory.ctypes.data % _LINE
        return memory[start : start + shape[0] * width].view(dtype).reshape(shape)


class Program:
    """Instructions for N rows of tokens.

    Args:
        num_rows: N.
        rooms: where its arrays are; by default no other program has them.

    Attributes:
        now: the rows of the present call.
        at_start: what every call begins with.
        question: where the caller puts rows.
        answer: where it finds them.
        chosen: what tells, for each layer with a router, which experts the rows chose: token, expert and gate weight of
            each assignment, in the order of tokens. It holds until the next call.
    """

    def __init__(self, num_rows: int, rooms: Rooms | None = None):
        self.num_rows = num_rows
        self.now: Any = None
        self.at_start: list[Callable[[Rows], object]] = []
        self.chosen: list[Callable[[], Sequence[Array]]] = []
        self.question: Any = None
        self.answer: Any = None
        self._memory = Rooms() if rooms is None else rooms
        self._rooms: dict[tuple[Any, ...], Array] = {}
        self._shared: dict[Any, Any] = {}
        self._definitions: list[Callable[[], object]] = []
        self._code: list[Instruction] = []
        self._parts: list[Any] = [[0, 0]]  # first and last instruction of a walk, or a function
        self._block, self._before, self._chain = 0, Touched(), Touched()  # in this block: apart from, and in its chain
        self._head: Instruction | None = None  # of a chain that can become longer
        self._packed: dict[tuple[Any, ...], Array] = {}
        self._compiled: Any = None
        self._work = self._work_per_key = 0  # multiplications; those of attention for each row and key

    @property
    def num_instructions(self) -> int:
        """How many there are."""
        return len(self._code)

    def room(self, name: str, *shape: int, dtype: Any = np.float32) -> Shaped[Array, "..."]:
        """An array of the program: layers that ask for the same name and shape share it."""
        key = name, shape, np.dtype(dtype)
        if key not in self._rooms:
            self._rooms[key] = self._memory.room(name, *shape, dtype=dtype)
        return self._rooms[key]

    def before(self, key: Any, function: Callable[[], object]) -> None:
        """Begin every call with a function, once for all layers that have the key in common."""
        if key not in self._shared:
            self._shared[key] = True
            self.at_start.append(lambda _: function())

    def shared(self, key: Any, make: Callable[[], Any]) -> Any:
        """What several layers have in common, made for the first of them."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def call(self, function: Callable[[], object]) -> None:
        """A function of Python, which sees and changes arrays of the program."""
        self._definitions.append(function)
        self._parts += [function, [len(self._code)] * 2]
        self._packed = {}
        self._next_block()

    def product(self, matrix: Matrix, x: Float[Array, "N i"], y: Float[Array, "N o"], bias: Any = None) -> None:
        """y_n = W x_n + b."""

        def define() -> None:
            y[...] = matrix.product(np.ascontiguousarray(x))
            if bias is not None:
                y[...] += bias

        if not matrix.operands.compiled:
            self.call(define)
            return
        packed, out = self.packed(x, matrix), y.shape[1]
        to = y.ctypes.data, y.strides[0], out, _address(bias), _unit(out)
        self._add(
            "PRODUCT", lambda loops: (*loops.operands(matrix), packed.ctypes.data, len(x), *to), define, [packed], [y],
            work=y.size * x.shape[1],
        )  # fmt: skip

    def product_of_experts(self, table: Any, x: Float[Array, "A i"], groups: "Groups", y: Float[Array, "A o"]) -> None:
        """y_a = W_e x_a + b_e for assignments a in the order of their experts e. x are packed rows of ``gather``."""

        def define() -> None:
            for e, rows in groups.listed():
                y[rows] = table[e].product(x[rows])
                if table.bias is not None:
                    y[rows] += table.bias[e]

        out = table.shape[0]
        fields = y.ctypes.data, y.strides[0], out, _address(table.bias), _unit(out)
        self._add(
            "PRODUCT_OF_EXPERTS",
            lambda loops: (*table.operands(loops), x.ctypes.data, len(x), groups.bounds.ctypes.data, *fields),
            define,
            [x, groups.bounds],
            [y],
            work=len(x) * table.shape[0] * table.shape[1],
        )

    def rms_norm(
        self, x: Float[Array, "rows d"], weight: Float[Array, " d"], eps: float, y: Float[Array, "rows d"]
    ) -> None:
        """y_n = w x_n / √(mean(x_n²) + ε)."""

        def define() -> None:
            y[...] = RMSNorm.compute(x, weight, eps=eps)

        fields = x.ctypes.data, *x.shape, weight.ctypes.data, y.ctypes.data
        self._add("RMS_NORM", lambda _: fields, define, [x], [y], eps)

    def rotate(self, x: Float[Array, "N H Dh"], cos: Any, sin: Any, y: Float[Array, "N H Dh"]) -> None:
        """The heads of row n turned by its own angles."""

        def define() -> None:
            turned = rotate(np.ascontiguousarray(x.swapaxes(0, 1))[None], cos, sin)[0]
            y[...] = turned.swapaxes(0, 1)

        fields = x.ctypes.data, *x.shape, cos.ctypes.data, sin.ctypes.data, y.ctypes.data
        self._add("ROTATE", lambda _: fields, define, [x], [y])

    def keep(self, x: Float[Array, "N width"], places: Int[Array, "N _"], field: int, define: Any) -> None:
        """Row n goes where ``places[n, field]`` says."""
        fields = x.ctypes.data, *x.shape, places.ctypes.data, field
        self._add("KEEP", lambda _: fields, define, [x], [places])

    def attend(
        self,
        q: Float[Array, "N H Dh"],
        num_kv_heads: int,
        places: Int[Array, "N _"],
        sinks: Any,
        scale: float,
        y: Float[Array, "N H Dv"],
        define: Callable[[], object],
    ) -> None:
        """Row n of q attends to the keys and values that ``places[n]`` names."""
        n, num_heads, width = q.shape
        fields = n, num_heads, num_kv_heads, width, y.shape[2], places.ctypes.data, _address(sinks), y.ctypes.data
        self._work_per_key += 2 * q[0].size
        self._add("ATTEND", lambda _: (q.ctypes.data, *fields), define, [q, places], [y], scale, work=_SMALL + 1)

    def swiglu(self, gate: Float[Array, "rows f"], up: Float[Array, "rows f"], y: Float[Array, "rows f"]) -> None:
        """y = silu(gate) ⊙ up; both may be halves of wider rows."""

        def define() -> None:
            y[...] = swiglu(gate, up)

        fields = gate.ctypes.data, up.ctypes.data, gate.strides[0] // gate.itemsize, *y.shape, y.ctypes.data
        self._add("SWIGLU", lambda _: fields, define, [gate, up], [y], work=16 * y.size)

    def add(self, x: Float[Array, "N d"], more: Float[Array, "N d"], factor: float = 1.0) -> None:
        """x += m · more."""

        def define() -> None:
            x[...] += more if factor == 1 else np.float32(factor) * more

        self._add("ADD", lambda _: (x.ctypes.data, more.ctypes.data, x.size), define, [more], [x], factor)

    def route(
        self,
        logits: Float[Array, "N E"],
        over_all: bool,
        whole: bool,
        expert: Int[Array, "N k"],
        gate: Float[Array, "N k"],
        define: Callable[[], object],
    ) -> None:
        """The k best experts of each row, and their gate weights.

        These are a softmax over all logits, divided by their sum if ``whole``, or one over the logits of those chosen.
        """
        fields = logits.ctypes.data, *logits.shape, expert.shape[1], over_all, whole, expert.ctypes.data
        self._add("ROUTE", lambda _: (*fields, gate.ctypes.data), define, [logits], [expert, gate])

    def group(self, expert: Int[Array, "N k"], gate: Float[Array, "N k"], num_experts: int) -> "Groups":
        """Assignments in the order of their experts."""
        groups = Groups(self, expert.size)

        def define() -> None:
            groups.order[...], offsets = sort_by_key(expert.reshape(-1), num_experts)
            groups.position[groups.order] = np.arange(len(groups.order))
            groups.gate[...] = gate.reshape(-1)[groups.order]
            groups.fill(offsets)

        to = (each.ctypes.data for each in (groups.order, groups.position, groups.bounds, gate, groups.gate))
        fields = expert.ctypes.data, expert.size, num_experts, *to
        self._add("GROUP", lambda _: fields, define, [expert, gate], groups.arrays)
        return groups

    def gather(
        self, x: Float[Array, "N d"], k: int, groups: "Groups", table: Any, gated: bool
    ) -> Float[Array, "A width"]:
        """The row of each assignment, packed for the products of its expert; times its gate weight if ``gated``."""
        a, width = len(groups.order), x.shape[1]
        y = self.room(f"gathered {table.even_first}", a, -(-width // 32) * 32)

        def define() -> None:
            rows = x[groups.order // k]
            y[:, :width] = rows * groups.gate[:, None] if gated else rows

        fields = x.ctypes.data, k, a, width, groups.order.ctypes.data, _address(groups.gate if gated else None)
        to = table.even_first, y.ctypes.data
        self._add("GATHER", lambda _: (*fields, *to), define, [x, groups.order, groups.gate], [y])
        return y[:, :width]

    def combine(
        self, r: Float[Array, "A d"], k: int, groups: "Groups", gate: Float[Array, " A"], y: Float[Array, "N d"]
    ) -> None:
        """y_t = Σ g_a r_a over the k assignments a of token t."""

        def define() -> None:
            at = groups.position
            y[...] = combine(r[at], gate[at], np.arange(len(at)) // k, len(y))

        fields = r.ctypes.data, len(y), k, y.shape[1], groups.position.ctypes.data, gate.ctypes.data, y.ctypes.data
        self._add("COMBINE", lambda _: fields, define, [r, groups.position, gate], [y])

    def run(self, now: Any, crew: Any) -> None:
        """Everything, for these rows; ``crew`` as from :func:`moe_numpy.kernels.programs`, or None."""
        self.now = now
        for start in self.at_start:
            start(now)
        if crew is None:
            for define in self._definitions:
                define()
            return
        if self._compiled is None:
            self._compiled = crew.compiled(self._code)
        keys = sum((mine.stop - mine.start) * (text.length + mine.stop - mine.start) for text, mine in now.parts)
        run = crew.begin(self._compiled, self, self._work + keys * self._work_per_key)
        for part in self._parts:
            if callable(part):
                part()
            elif part[0] < part[1]:
                crew.walk(self._compiled, run, *part)

    def packed(self, x: Float[Array, "N i"], matrix: Any) -> Float[Array, "N i"]:
        """Rows as compiled products with such a matrix, or table of matrices, read them."""
        even_first, width = bool(matrix.even_first), x.shape[1]
        if width % 32 == 0 and not even_first:
            return x
        key = x.ctypes.data, x.shape, even_first
        if key not in self._packed:
            y = self.room(f"packed {key[0]} {width} {even_first}", len(x), -(-width // 32) * 32)[:, :width]
            fields = x.ctypes.data, *x.shape, even_first, y.ctypes.data
            self._add("PACK", lambda _: fields, lambda: np.copyto(y, x), [x], [y])
            self._packed[key] = y
        return self._packed[key]

    def _add(
        self,
        name: str,
        fields: Callable[[Any], tuple[int, ...]],
        define: Callable[[], object],
        reads: Sequence[Array],
        writes: Sequence[Array],
        number: float = 0.0,
        work: int | None = None,
    ) -> None:
        """One instruction, in a new block if it needs what was done in this one.

        ``work``: multiplications or so; by default as many as entries are written. Little of it is not shared.
        """
        touched = Touched({_owner(x) for x in reads}, {_owner(x) for x in writes})
        work = sum(x.size for x in writes) if work is None else work
        small = work <= _SMALL
        self._work += work
        if touched.needs(self._before) or (touched.needs(self._chain) and not (small and self._head)):
            self._next_block()
        for key, packed in list(self._packed.items()):
            if any(key[0] == x.ctypes.data or _owner(packed) in touched.written for x in writes):
                del self._packed[key]
        new = Instruction(name, number, fields, self._block)
        if small and self._head is not None:
            self._head.chain += 1
        elif small:
            self._head = new
        if not small or self._head is new:
            self._before.add(self._chain)
            self._chain = Touched()
        if small:
            self._chain.add(touched)
        else:
            self._head = None
            self._before.add(touched)
        self._code.append(new)
        self._parts[-1][1] = len(self._code)
        self._definitions.append(define)

    def _next_block(self) -> None:
        self._block += bool(self._code) and self._code[-1].block == self._block
        self._before, self._chain, self._head = Touched(), Touched(), None


@dataclass
class Instruction:
    """One instruction; ``chain`` counts those that one thread does, from this one on."""

    name: str
    number: float
    fields: Callable[[Any], tuple[int, ...]]
    block: int
    chain: int = 1


@dataclass
class Touched:
    """Which arrays were read and written."""

    read: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)

    def needs(self, other: "Touched") -> bool:
        """Whether it must come after the other."""
        return bool((self.read | self.written) & other.written or self.written & other.read)

    def add(self, other: "Touched") -> None:
        """All that either touched."""
        self.read |= other.read
        self.written |= other.written


class Groups:
    """Assignments sorted by expert.

    Attributes:
        order: which assignment is at each place; assignment a is the (a mod k)-th of token a // k.
        position: the place of each assignment.
        gate: gate weights in that order.
        bounds: how many experts have assignments, which, and where those of each begin and end.
    """

    def __init__(self, program: Program, num: int):
        self.order, self.position = (program.room(name, num, dtype=np.int64) for name in ("order", "position"))
        self.gate = program.room("sorted gate", num)
        self.bounds = program.room("bounds", 2 * num + 2, dtype=np.int64)
        self.arrays = self.order, self.position, self.gate, self.bounds

    def fill(self, offsets: Int[Array, " E1"]) -> None:
        """Set the bounds."""
        num, own = len(self.order), np.flatnonzero(np.diff(offsets))
        self.bounds[0], self.bounds[1 : 1 + len(own)] = len(own), own
        self.bounds[1 + num : 1 + num + len(own)], self.bounds[1 + num + len(own)] = offsets[own], num

    def listed(self) -> list[tuple[int, slice]]:
        """Each expert with its rows."""
        num, n = len(self.order), int(self.bounds[0])
        experts, bounds = self.bounds[1 : 1 + n].tolist(), self.bounds[1 + num : 2 + num + n].tolist()
        return [(e, slice(bounds[g], bounds[g + 1])) for g, e in enumerate(experts)]


def _unit(out: int) -> int:
    """How many rows of a matrix are one piece of work."""
    return min(_UNIT, max(16, out // 8 // 16 * 16))


def _owner(x: Array) -> int:
    """Which memory an array is a view of."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return id(x)


def _address(x: Any) -> int:
    return 0 if x is None else int(x.ctypes.data)
