"""How 32 neighbouring weights of each format become two vectors of 16 floats, exactly. Layouts: ``formats/``.

A decoder gets the addresses of a row's codes and scales and the number c of the 32 weights. Both vectors together hold
w_{32c} ... w_{32c+31}, in this order, or all even ones before all odd ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .vectors import (
    BYTES,
    F32,
    FLOATS,
    HALVES,
    I8,
    I16,
    I32,
    LANES,
    WORDS,
    in_all_lanes,
    load,
    look_up,
    look_up_in_memory,
    number,
    processor_has,
    same,
)

_E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
_E8M0 = [2.0 ** (e - 127) for e in range(255)] + [float("nan")]


@dataclass(frozen=True)
class Decoder:
    """One format.

    Args:
        size: bytes of 32 weights.
        scale: bytes of their scale; 0 without.
        decode: makes the code; gets the builder, both addresses and c.
        even_first: the order of the 32 weights.
        direct: with up to so many rows of x, weights are decoded again for every four; with more, once into memory.
    """

    size: int
    scale: int
    decode: Callable[[Any, Any, Any, Any], tuple[Any, Any]]
    even_first: bool = False
    direct: int = 16


def _float32(b: Any, codes: Any, scales: Any, c: Any) -> tuple[Any, Any]:
    start = b.add(codes, b.mul(c, number(128)))
    return load(b, start, FLOATS), load(b, b.add(start, number(64)), FLOATS)


def _bfloat16(b: Any, codes: Any, scales: Any, c: Any) -> tuple[Any, Any]:
    start = b.add(codes, b.mul(c, number(64)))
    bits = (b.zext(load(b, b.add(start, number(32 * half)), HALVES), WORDS) for half in (0, 1))
    first, second = (b.bitcast(b.shl(half, same(WORDS, 16)), FLOATS) for half in bits)
    return first, second


def _int8(b: Any, codes: Any, scales: Any, c: Any) -> tuple[Any, Any]:
    start, scale = b.add(codes, b.mul(c, number(32))), _bfloat16_scale(b, scales, c)
    halves = (b.sitofp(load(b, b.add(start, number(16 * half)), BYTES), FLOATS) for half in (0, 1))
    first, second = (b.fmul(half, scale) for half in halves)
    return first, second


def _int4(b: Any, codes: Any, scales: Any, c: Any) -> tuple[Any, Any]:
    scale = _bfloat16_scale(b, scales, c)
    first, second = (b.fmul(_int4_value(b, index), scale) for index in _nibbles(b, codes, c))
    return first, second


def _mxfp4(b: Any, codes: Any, scales: Any, c: Any) -> tuple[Any, Any]:
    exponent = load(b, b.add(scales, c), I8)
    scale = in_all_lanes(b, look_up_in_memory(b, _E8M0, "moe_numpy_e8m0", exponent))
    first, second = (b.fmul(_e2m1_value(b, index), scale) for index in _nibbles(b, codes, c))
    return first, second


def _fp8(b: Any, codes: Any, scales: Any, c: Any) -> tuple[Any, Any]:
    """The magnitude's seven bits, moved to the place of a float32's exponent and mantissa, lack a bias of 120.

    Magnitudes below 16 are multiples of 2^-9, so that subnormal ones need no subnormal float32, which is slow.
    """
    start, scale = b.add(codes, b.mul(c, number(32))), in_all_lanes(b, load(b, b.add(scales, b.mul(c, number(4))), F32))
    first, second = (
        b.fmul(_e4m3_value(b, b.zext(load(b, b.add(start, number(16 * half)), BYTES), WORDS)), scale) for half in (0, 1)
    )
    return first, second


def _bfloat16_scale(b: Any, scales: Any, c: Any) -> Any:
    bits = b.zext(load(b, b.add(scales, b.mul(c, number(2))), I16), I32)
    return in_all_lanes(b, b.bitcast(b.shl(bits, ir.Constant(I32, 16)), F32))


def _nibbles(b: Any, codes: Any, c: Any) -> tuple[Any, Any]:
    """16 bytes as words: their low four bits among others, and their high four bits."""
    words = b.zext(load(b, b.add(codes, b.mul(c, number(16))), BYTES), WORDS)
    return words, b.lshr(words, same(WORDS, 4))


def _int4_value(b: Any, index: Any) -> Any:
    if processor_has("avx512f"):
        return look_up(b, [code - 8.0 for code in range(16)], index)
    return b.sitofp(b.sub(b.and_(index, same(WORDS, 15)), same(WORDS, 8)), FLOATS)


def _e2m1_value(b: Any, index: Any) -> Any:
    """Without AVX-512, as for E4M3: three bits to the place of exponent and mantissa, and a bias of 126."""
    if processor_has("avx512f"):
        return look_up(b, _E2M1 + [-value for value in _E2M1], index)
    magnitude = b.and_(index, same(WORDS, 7))
    large = b.add(b.shl(magnitude, same(WORDS, 22)), same(WORDS, 126 << 23))
    small = b.bitcast(b.fmul(b.sitofp(magnitude, FLOATS), same(FLOATS, 0.5)), WORDS)  # of 0 and 1
    bits = b.select(b.icmp_unsigned("<", magnitude, same(WORDS, 2)), small, large)
    return _with_sign(b, bits, index, 28)


def _e4m3_value(b: Any, word: Any) -> Any:
    magnitude = b.and_(word, same(WORDS, 0x7F))
    large = b.add(b.shl(magnitude, same(WORDS, 20)), same(WORDS, 120 << 23))
    small = b.bitcast(b.fmul(b.sitofp(magnitude, FLOATS), same(FLOATS, 2.0**-9)), WORDS)
    bits = b.select(b.icmp_unsigned("<", magnitude, same(WORDS, 16)), small, large)
    bits = b.select(b.icmp_unsigned("==", magnitude, same(WORDS, 0x7F)), same(WORDS, 0x7FC00000), bits)
    return _with_sign(b, bits, word, 24)


def _with_sign(b: Any, bits: Any, word: Any, up: int) -> Any:
    """The bits of a float without sign, with one from a lower place in a word."""
    sign = b.and_(b.shl(word, same(WORDS, up)), same(WORDS, 0x80000000))
    return b.bitcast(b.or_(bits, sign), FLOATS)


DECODERS = {
    "float32": Decoder(8 * LANES, 0, _float32),
    "bfloat16": Decoder(4 * LANES, 0, _bfloat16),
    "int8": Decoder(2 * LANES, 2, _int8),
    "int4": Decoder(LANES, 2, _int4),
    "mxfp4": Decoder(LANES, 1, _mxfp4, even_first=True),
    "fp8": Decoder(2 * LANES, 4, _fp8, direct=4),
}
