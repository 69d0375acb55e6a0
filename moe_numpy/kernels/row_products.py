"""Rows of weights times rows of activations, and rows of weights as floats, for each decoder.

Every sum has one order: of 16 lanes, lane l adds w_j x_j for j = l, l + 16, l + 32 ... (the decoder may order each 32
in another way), and in the end the lanes are added by halves. How many rows are computed together, and which, plays no
part, so that a row has the same bits in any company. Nor does the format, where its decoder keeps the order: the
product has the bits of that of the float32 matrix with the same values.

The functions below are called in compiled loops, and their bodies make code: addresses are integers.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .decoders import DECODERS, Decoder
from .vectors import FLOATS, I8, I32, I64, load, multiply_add, number, prefetch, processor_has, same, store, sums

KINDS = {name: kind for kind, name in enumerate(DECODERS)}
_SUMS = 16 if processor_has("avx512f") else 4  # that fit into the registers
ROWS_WITH_ONE, ROWS_WITH_TWO, ROWS_WITH_FOUR = (min(4, _SUMS // num) for num in (1, 2, 4))  # of weights at once
TILE = (4, 4) if processor_has("avx512f") else (2, 2)  # rows of weights and of x
_AHEAD = 512  # bytes; without prefetching, int8 and int4 run at half the speed
_LINE = 64


def _direct(num_rows: int, num_columns: int) -> Any:
    """Make a function: y_nm = w_m · x_n for the rows i, i + apart ... of weights, and ``num_columns`` of x from n."""

    @intrinsic
    def products(
        context: Any, kind: Any, codes: Any, codes_step: Any, scales: Any, scales_step: Any, scale_rows: Any,
        chunks: Any, x: Any, n: Any, n_end: Any, y: Any, y_step: Any, i: Any, apart: Any, i_end: Any,
    ) -> Any:  # fmt: skip
        def make(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            kind, *weights, chunks, x, n, n_end, y, y_step, i, apart, i_end = arguments
            for name, decoder in DECODERS.items():
                with b.if_then(b.icmp_signed("==", kind, number(KINDS[name]))):
                    of = (x, n, n_end), (y, y_step), (i, apart, i_end), (num_rows, num_columns)
                    _products(b, decoder, weights, chunks, *of)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 15), make

    return products


products_with_one = _direct(ROWS_WITH_ONE, 1)
products_with_two = _direct(ROWS_WITH_TWO, 2)
products_with_four = _direct(ROWS_WITH_FOUR, 4)


@intrinsic
def products_of_tile(
    context: Any, floats: Any, step: Any, chunks: Any, x: Any, n: Any, n_end: Any, y: Any, y_step: Any, i: Any,
    i_end: Any,
) -> Any:  # fmt: skip
    """y_nm = w_m · x_n for the rows of a TILE of float32 weights from i, and of x from n, repeated beyond the last."""

    def make(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        floats, step, chunks, x, n, n_end, y, y_step, i, i_end = arguments
        weights = floats, step, number(0), number(0), number(1)
        rows = i, number(1), i_end
        _products(b, DECODERS["float32"], weights, chunks, (x, n, n_end), (y, y_step), rows, TILE)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), make


@intrinsic
def unpack(context: Any, kind: Any, codes: Any, scales: Any, width: Any, to: Any) -> Any:
    """Write a row of ``width`` weights as floats, padded with zeros to a multiple of 32."""

    def make(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        kind, *rest = arguments
        for name, decoder in DECODERS.items():
            with b.if_then(b.icmp_signed("==", kind, number(KINDS[name]))):
                _unpack(b, decoder, *rest)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), make


def _products(
    b: Any, decoder: Decoder, weights: Any, chunks: Any, x: Any, y: Any, rows: Any, tile: tuple[int, int]
) -> None:
    (codes, codes_step, scales, scales_step, scale_rows), (x, n, n_end), (y, y_step) = weights, x, y
    i, apart, i_end = rows
    ms = [_at_most(b, b.add(i, b.mul(apart, number(m))), i_end) for m in range(tile[0])]
    ns = [_at_most(b, b.add(n, number(m)), n_end) for m in range(tile[1])]
    w_rows = [b.add(codes, b.mul(m, codes_step)) for m in ms]
    s_rows = [b.add(scales, b.mul(b.sdiv(m, scale_rows), scales_step)) if decoder.scale else None for m in ms]
    x_rows = [b.add(x, b.mul(n, b.mul(chunks, number(128)))) for n in ns]
    total = [[cgutils.alloca_once_value(b, same(FLOATS, 0.0)) for _ in ms] for _ in ns]
    with cgutils.for_range(b, chunks, intp=I64) as loop:
        c = loop.index
        inputs = [DECODERS["float32"].decode(b, row, None, c) for row in x_rows]
        for m, (w_row, s_row) in enumerate(zip(w_rows, s_rows, strict=True)):
            _prefetch(b, decoder, w_row, c)
            for half, w in enumerate(decoder.decode(b, w_row, s_row, c)):
                for n in range(tile[1]):
                    b.store(multiply_add(b, w, inputs[n][half], b.load(total[n][m])), total[n][m])
    results = sums(b, [b.load(sum_) for of_row in total for sum_ in of_row])
    for k in range(tile[0] * tile[1]):
        n, m = divmod(k, tile[0])
        place = b.add(y, b.add(b.mul(ns[n], y_step), b.mul(ms[m], number(4))))
        store(b, b.extract_element(results, ir.Constant(I32, k)), place)


def _unpack(b: Any, decoder: Decoder, codes: Any, scales: Any, width: Any, to: Any) -> None:
    whole, rest = b.sdiv(width, number(32)), b.srem(width, number(32))
    with cgutils.for_range(b, whole, intp=I64) as loop:
        _prefetch(b, decoder, codes, loop.index)
        _write(b, decoder.decode(b, codes, scales, loop.index), to, loop.index)
    with b.if_then(b.icmp_signed(">", rest, number(0))):
        zeros = ir.Constant(ir.ArrayType(I8, decoder.size), None)
        last = cgutils.alloca_once(b, zeros.type)
        b.store(zeros, last)
        start, padded = b.add(codes, b.mul(whole, number(decoder.size))), b.ptrtoint(last, I64)
        with cgutils.for_range(b, b.mul(rest, number(decoder.size // 32)), intp=I64) as loop:
            store(b, load(b, b.add(start, loop.index), I8), b.add(padded, loop.index))
        scale = b.add(scales, b.mul(whole, number(decoder.scale)))
        _write(b, decoder.decode(b, padded, scale, number(0)), to, whole)


def _at_most(b: Any, row: Any, end: Any) -> Any:
    last = b.sub(end, number(1))
    return b.select(b.icmp_signed("<", row, last), row, last)


def _prefetch(b: Any, decoder: Decoder, codes: Any, c: Any) -> None:
    for line in range(0, decoder.size, _LINE):
        prefetch(b, b.add(codes, b.add(b.mul(c, number(decoder.size)), number(_AHEAD + line))))


def _write(b: Any, halves: tuple[Any, Any], to: Any, c: Any) -> None:
    for half, values in enumerate(halves):
        store(b, values, b.add(to, b.add(b.mul(c, number(128)), number(64 * half))))
