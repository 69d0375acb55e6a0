"""What threads in compiled loops tell one another, through 64-bit numbers in memory whose addresses they share."""

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import I32, I64, at, number, processor_has

_SPINS = 1000  # looks at a number before the processor is left to others: some 50 µs


@intrinsic
def atomic_add(context: Any, address: Any, value: Any) -> Any:
    """Add to the number at an address and return what it was; what was written before is seen by who reads it."""

    def make(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, value = arguments
        return b.atomic_rmw("add", at(b, address, I64), value, "seq_cst")

    return types.int64(types.int64, types.int64), make


@intrinsic
def atomic_load(context: Any, address: Any) -> Any:
    """The number at an address, and after it what was written before it."""

    def make(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.load_atomic(at(b, arguments[0], I64), "seq_cst", 8)

    return types.int64(types.int64), make


@intrinsic
def exchanged(context: Any, address: Any, expected: Any, value: Any) -> Any:
    """Whether the number at an address was the expected one, which is then replaced."""

    def make(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, expected, value = arguments
        found = b.cmpxchg(at(b, address, I64), expected, value, "seq_cst", "seq_cst")
        return b.extract_value(found, 1)

    return types.boolean(types.int64, types.int64, types.int64), make


@intrinsic
def wait_until_at_least(context: Any, address: Any, value: Any) -> Any:
    """Return when the number at an address is ``value`` or more: look again and again, after a while with pauses."""

    def make(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, value = arguments
        spins = cgutils.alloca_once_value(b, number(0))
        look, again, rest, done = (b.append_basic_block(name) for name in ("look", "again", "rest", "done"))
        b.branch(look)
        b.position_at_end(look)
        seen = b.load_atomic(at(b, address, I64), "acquire", 8)
        b.cbranch(b.icmp_signed(">=", seen, value), done, again)
        b.position_at_end(again)
        count = b.add(b.load(spins), number(1))
        b.store(count, spins)
        _pause(b)
        b.cbranch(b.icmp_signed(">", count, number(_SPINS)), rest, look)
        b.position_at_end(rest)
        _sleep(b)
        b.branch(look)
        b.position_at_end(done)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), make


def _pause(b: Any) -> None:
    """Tell an x86 processor that this is a loop of waiting."""
    if processor_has("sse2"):
        kind = ir.FunctionType(ir.VoidType(), [])
        b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.x86.sse2.pause"), [])


def _sleep(b: Any) -> None:
    """Leave the processor to others for a moment."""
    if sys.platform == "win32":
        b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), [I32]), "Sleep"), [I32(0)])
    else:
        b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(I32, [I32]), "usleep"), [I32(20)])
