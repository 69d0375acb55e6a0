"""Vectors of 16 floats in compiled loops, written for LLVM, which splits them where the processor's are shorter.

A plain loop over weights of a few bits is not vectorised: measured on one thread, int8 at 1.4 billion weights a second
instead of 20. numba calls the functions made here inside its own loops, and the same code runs on any processor.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

LANES = 16
I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
BYTES, HALVES, WORDS, FLOATS = (ir.VectorType(t, LANES) for t in (I8, I16, I32, F32))


def processor_has(feature: str) -> bool:
    """Whether the processor that numba compiles for has it: ``"avx512f"``."""
    return f"+{feature}" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")


def same(vector: ir.VectorType, value: float) -> ir.Constant:
    """A constant in all lanes."""
    return ir.Constant(vector, [value] * vector.count)


def number(value: int) -> ir.Constant:
    """A constant of 64 bits."""
    return ir.Constant(I64, value)


def at(b: Any, address: Any, of: ir.Type) -> Any:
    """An address, an integer of 64 bits, as a pointer."""
    return b.inttoptr(address, ir.PointerType(of))


def load(b: Any, address: Any, of: ir.Type) -> Any:
    """What lies at an address, which need not be aligned."""
    return b.load(at(b, address, of), align=1)


def store(b: Any, value: Any, address: Any) -> None:
    """Write to an address, which need not be aligned."""
    b.store(value, at(b, address, value.type), align=1)


def in_all_lanes(b: Any, value: Any) -> Any:
    """One value in 16 lanes."""
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = b.insert_element(nothing, value, ir.Constant(I32, 0))
    return lanes(b, first, nothing, [0] * LANES)


def lanes(b: Any, first: Any, second: Any, which: list[int]) -> Any:
    """Lanes of two vectors by number: those of the second come after those of the first."""
    return b.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, len(which)), which))


def multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z, rounded once where the processor can do that, as it then does everywhere."""
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    return b.call(cgutils.get_or_insert_function(b.module, kind, f"llvm.fmuladd.v{LANES}f32"), [x, y, z])


def prefetch(b: Any, address: Any) -> None:
    """Begin to read a cache line; an address outside of all memory does no harm."""
    pointer = ir.PointerType(I8)
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    b.call(function, [at(b, address, I8), *(ir.Constant(I32, setting) for setting in (0, 3, 1))])


def look_up(b: Any, table: list[float], index: Any) -> Any:
    """``table[index mod 16]`` of 16 values in one instruction, which AVX-512 has."""
    kind = ir.FunctionType(FLOATS, [FLOATS, WORDS])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx512.permvar.sf.512")
    return b.call(function, [ir.Constant(FLOATS, table), index])


def look_up_in_memory(b: Any, table: list[float], name: str, index: Any) -> Any:
    """``table[index]`` of any length, for one index."""
    address = b.ptrtoint(
        cgutils.global_constant(b.module, name, ir.Constant(ir.ArrayType(F32, len(table)), table)), I64
    )
    return load(b, b.add(address, b.mul(b.zext(index, I64), number(4))), F32)


def sums(b: Any, vectors: list[Any]) -> Any:
    """The sum of each of 1, 2, 4, 8 or 16 vectors, as lanes of one vector.

    The upper half is added to the lower one, then the upper quarter to the lower one, and so on, whatever the number of
    vectors: several share the instructions, not the order.
    """
    width = LANES
    while width > 1:
        half = width // 2
        pairs = zip(vectors[::2], vectors[1::2] or [None], strict=True)
        vectors = [_halves_added(b, first, second, width, half) for first, second in pairs]
        width = half
    return vectors[0]


def _halves_added(b: Any, first: Any, second: Any, width: int, half: int) -> Any:
    """Each part of ``width`` lanes becomes one of ``half`` lanes."""
    parts = first.type.count // width * (1 if second is None else 2)
    lower = [part * width + lane for part in range(parts) for lane in range(half)]
    second = ir.Constant(first.type, ir.Undefined) if second is None else second
    return b.fadd(lanes(b, first, second, lower), lanes(b, first, second, [lane + half for lane in lower]))
