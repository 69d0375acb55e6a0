"""The compiled loop that walks a program: what a model does with some rows, in one call, on several threads.

All threads walk the same instructions. What an instruction does is cut into pieces of work, and whoever comes first
takes the next one; a thread that comes late, because the system ran something else, finds all taken and catches up.
Instructions that need nothing of one another form a block; a thread enters a block when all pieces of the one before it
are done, by whomever. Small instructions that follow one another are a chain, which one thread does as one piece.

What an instruction computes is defined by the method of the same name of ``inference.program.Program``; the formulas
are those of ``loops`` and ``product_loops``. Each row is computed by itself, in one order, so that its bits depend
neither on the other rows nor on the number of threads.

An instruction is a row of 64-bit integers: its name, and its fields in the order of the functions below, and in the end
its block and the length of the chain that it begins. Arrays come as addresses of dense float32 or int64 entries.
"""

import math
from types import SimpleNamespace

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from . import atomics, decoders, loops, places, product_loops, row_products, vectors
from .atomics import atomic_add, atomic_load, exchanged, wait_until_at_least
from .loops import compiled
from .places import BEGIN, END, KEYS, PLACES, VALUES
from .product_loops import operands, pack, product  # noqa: F401 - for instructions

MADE_OF = (atomics, decoders, loops, places, product_loops, row_products, vectors)

FIELDS = 20
BLOCK, CHAIN = FIELDS - 2, FIELDS - 1
NAMES = (
    "PRODUCT", "PRODUCT_OF_EXPERTS", "PACK", "RMS_NORM", "ROTATE", "KEEP", "ATTEND", "SWIGLU", "ADD", "ROUTE", "GROUP",
    "GATHER", "COMBINE",
)  # fmt: skip
OF = SimpleNamespace(**{name: number for number, name in enumerate(NAMES)})
(
    _PRODUCT, _PRODUCT_OF_EXPERTS, _PACK, _RMS_NORM, _ROTATE, _KEEP, _ATTEND, _SWIGLU, _ADD, _ROUTE, _GROUP, _GATHER,
    _COMBINE,
) = range(len(NAMES))  # fmt: skip

# What the threads of a crew have in common, in bytes: how many walks there were, how many blocks are done, whether to
# leave; then for each walk the arrays of its program, its first and last instruction, its first block and how many
# blocks were done before it, the number of the run, and the number of zones.
WALKS, DONE, LEAVE, HELPERS, ORDERS = 0, 64, 128, 136, 192
CODE, NUMBERS, COUNTERS, FINISHED, LEFT, FIRST, LAST, FIRST_BLOCK, DONE_BEFORE, RUN, THREADS, ORDER = range(12)
TAKEN = 1 << 31  # more pieces than any instruction has
ZONES = 8  # parts of an instruction that threads begin with, at most
COUNTED = ZONES + 1  # numbers of an instruction: what is claimed of each zone, and of the chain
_PIECE = 256  # columns of an activation that a thread takes at once
_ENTRIES = 4096  # of a sum


@compiled
def _claimed(counter, run, num):
    """The number of something of ``num`` that nobody has claimed; -1 if there is none, or another run has begun."""
    while True:
        seen = atomic_load(counter)
        n = seen - (run << 32)
        if n < 0 or n >= min(num, TAKEN):
            return -1
        if exchanged(counter, seen, seen + 1):
            return n


@compiled
def _next(counter, who, num):
    """The number of a piece of ``num``; -1 if there is none. Neighbours go to one thread, until it has done its share.

    A thread that goes on where it was finds what was fetched ahead.
    """
    run, me, threads = who
    for z in range(threads):
        zone = (me + z) % threads
        first, end = zone * num // threads, (zone + 1) * num // threads
        n = _claimed(counter + 8 * zone, run, end - first)
        if n >= 0:
            return first + n
    return -1


@intrinsic
def _pointer(context, address):
    def make(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), make


@compiled
def _floats(address, num):
    return carray(_pointer(address), (num,), np.float32)


@compiled
def _rows(address, num, width):
    return carray(_pointer(address), (num, width), np.float32)


@compiled
def _heads(address, num, num_heads, width):
    return carray(_pointer(address), (num, num_heads, width), np.float32)


@compiled
def _integers(address, num):
    return carray(_pointer(address), (num,), np.int64)


@compiled
def _number(address):
    return carray(_pointer(address), (1,), np.int64)[0]


@compiled
def _real(address):
    return carray(_pointer(address), (1,), np.float64)[0]


@compiled
def _add_bias(y, y_step, num_rows, bias, lo, hi):
    if bias == 0:
        return
    b = _floats(bias + 4 * lo, hi - lo)
    for n in range(num_rows):
        row = _floats(y + n * y_step + 4 * lo, hi - lo)
        for j in range(hi - lo):
            row[j] += b[j]


@compiled
def _product(i, counter, who):
    kind, codes, codes_step, scales, scales_step, scale_rows, width, x, num_rows, y, y_step, out, bias, unit = (
        i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9], i[10], i[11], i[12], i[13], i[14]
    )  # fmt: skip
    mine, pieces = 0, (out + unit - 1) // unit
    while True:
        lo = _next(counter, who, pieces) * unit
        if lo < 0:
            return mine, pieces
        mine += 1
        hi = min(lo + unit, out)
        product(kind, codes, codes_step, scales, scales_step, scale_rows, width, x, num_rows, y, y_step, lo, hi)
        _add_bias(y, y_step, num_rows, bias, lo, hi)


@compiled
def _product_of_experts(i, counter, who):
    """``table``: where the codes and scales of each expert begin."""
    kind, table, codes_step, scales_step, scale_rows, width, x, num, groups, y, y_step, out, bias, unit = (
        i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9], i[10], i[11], i[12], i[13], i[14]
    )  # fmt: skip
    listed = _integers(groups, 2 * num + 2)
    blocks, x_step = (out + unit - 1) // unit, (width + 31) // 32 * 128
    mine = 0
    while True:
        piece = _next(counter, who, listed[0] * blocks)
        if piece < 0:
            return mine, listed[0] * blocks
        mine += 1
        g, block = divmod(piece, blocks)
        e, first, end = listed[1 + g], listed[1 + num + g], listed[2 + num + g]
        lo, hi = block * unit, min((block + 1) * unit, out)
        own_x, own_y, at = x + first * x_step, y + first * y_step, _integers(table + 16 * e, 2)
        product(
            kind, at[0], codes_step, at[1], scales_step, scale_rows, width, own_x, end - first, own_y, y_step, lo, hi
        )
        if bias != 0:
            _add_bias(own_y, y_step, end - first, bias + 4 * e * out, lo, hi)


@compiled
def _pack(i, counter, who):
    x, num_rows, width, even_first, y = i[1], i[2], i[3], i[4], i[5]
    padded = (width + 31) // 32 * 32
    mine = 0
    while True:
        n = _next(counter, who, num_rows)
        if n < 0:
            return mine, num_rows
        mine += 1
        pack(_rows(x + 4 * n * width, 1, width), even_first != 0, _rows(y + 4 * n * padded, 1, padded))


@compiled
def _rms_norm(i, eps, counter, who):
    x, num_rows, width, weight, y = i[1], i[2], i[3], i[4], i[5]
    r, w = np.empty(1, np.float32), _floats(weight, width)
    mine = 0
    while True:
        n = _next(counter, who, num_rows)
        if n < 0:
            return mine, num_rows
        mine += 1
        row, out = _rows(x + 4 * n * width, 1, width), _rows(y + 4 * n * width, 1, width)
        loops.rms_norm(row, w, np.float32(eps), out, r, np.float32(0), np.float32(1), np.float32(width), 0, 1)


@compiled
def _rotate(i, counter, who):
    x, num_rows, num_heads, width, cos, sin, y = i[1], i[2], i[3], i[4], i[5], i[6], i[7]
    size, half = 4 * num_heads * width, width // 2
    mine = 0
    while True:
        n = _next(counter, who, num_rows)
        if n < 0:
            return mine, num_rows
        mine += 1
        row = carray(_pointer(x + n * size), (1, num_heads, 1, width), np.float32)
        out = carray(_pointer(y + n * size), (1, num_heads, 1, width), np.float32)
        c, s = _rows(cos + 4 * n * half, 1, half), _rows(sin + 4 * n * half, 1, half)
        loops.rotate(row, c, s, out, 0, 1)


@compiled
def _keep(i, counter, who):
    x, num_rows, width, table, field = i[1], i[2], i[3], i[4], i[5]
    mine = 0
    while True:
        n = _next(counter, who, num_rows)
        if n < 0:
            return mine, num_rows
        mine += 1
        row = _floats(x + 4 * n * width, width)
        out = _floats(_number(table + 8 * (n * PLACES + field)), width)
        for j in range(width):
            out[j] = row[j]


@compiled
def _attend(i, scale, counter, who):
    q, num_rows, num_heads, num_kv_heads, width, value_width, table, sinks, y = (
        i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9]
    )  # fmt: skip
    of_sinks = _floats(sinks, num_heads if sinks != 0 else 0)
    scores = np.empty(0, np.float32)
    mine = 0
    while True:
        piece = _next(counter, who, num_rows * num_heads)
        if piece < 0:
            return mine, num_rows * num_heads
        mine += 1
        n, h = divmod(piece, num_heads)
        place = _integers(table + 8 * n * PLACES, PLACES)
        end = place[END]
        if len(scores) < end:
            scores = np.empty(end, np.float32)
        keys = _heads(place[KEYS], end, num_kv_heads, width)
        values = _heads(place[VALUES], end, num_kv_heads, value_width)
        at = n * num_heads + h
        row, out = _floats(q + 4 * at * width, width), _floats(y + 4 * at * value_width, value_width)
        head = h // (num_heads // num_kv_heads)
        loops.attend_row(
            row, keys, values, head, place[BEGIN], end, np.float32(scale), of_sinks, h, scores, out, np.float32(0)
        )


@compiled
def swiglu_of_row(gate, up, y):
    """y = silu(gate) ⊙ up; NumPy's exponentials may differ in the last bit."""
    e = np.empty((1, len(y)), np.float32)
    for j in range(len(y)):
        e[0, j] = math.exp(-gate[j])
    loops.swiglu(e, gate, len(y), up, len(y), y.reshape(1, len(y)), np.float32(1))


@compiled
def _swiglu(i, counter, who):
    gate, up, step, num_rows, width, y = i[1], i[2], i[3], i[4], i[5], i[6]
    mine, blocks = 0, (width + _PIECE - 1) // _PIECE
    while True:
        piece = _next(counter, who, num_rows * blocks)
        if piece < 0:
            return mine, num_rows * blocks
        mine += 1
        n, block = divmod(piece, blocks)
        start = block * _PIECE
        num = min(_PIECE, width - start)
        g, u = _floats(gate + 4 * (n * step + start), num), _floats(up + 4 * (n * step + start), num)
        swiglu_of_row(g, u, _floats(y + 4 * (n * width + start), num))


@compiled
def _add(i, factor, counter, who):
    x, more, num = i[1], i[2], i[3]
    mine, pieces = 0, (num + _ENTRIES - 1) // _ENTRIES
    while True:
        start = _next(counter, who, pieces) * _ENTRIES
        if start < 0:
            return mine, pieces
        mine += 1
        size = min(_ENTRIES, num - start)
        a, b, m = _floats(x + 4 * start, size), _floats(more + 4 * start, size), np.float32(factor)
        if factor == 1:
            for j in range(size):
                a[j] += b[j]
        else:
            for j in range(size):
                a[j] += m * b[j]


@compiled
def _route(i, counter, who):
    """``over_all``: softmax of all logits; else of those that were chosen. ``whole``: gates of a token sum to one."""
    logits, num_rows, num_experts, k, over_all, whole, expert, gate = i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8]
    p, zero = np.empty((1, num_experts), np.float32), np.float32(0)
    mine = 0
    while True:
        n = _next(counter, who, num_rows)
        if n < 0:
            return mine, num_rows
        mine += 1
        row = _rows(logits + 4 * n * num_experts, 1, num_experts)
        chosen = carray(_pointer(expert + 8 * n * k), (1, k), np.int64)
        g = _rows(gate + 4 * n * k, 1, k)
        if over_all != 0:
            loops.shift_by_maximum(row, p, 0, 1)
            for e in range(num_experts):
                p[0, e] = math.exp(p[0, e])
            loops.divide_by_sum(p, zero, 0, 1)
            loops.top_k(p, chosen, 0, 1)
            for j in range(k):
                g[0, j] = p[0, chosen[0, j]]
            if whole != 0:
                loops.divide_by_sum(g, zero, 0, 1)
        else:
            loops.top_k(row, chosen, 0, 1)
            top = row[0, chosen[0, 0]]
            for j in range(k):
                g[0, j] = math.exp(row[0, chosen[0, j]] - top)
            loops.divide_by_sum(g, zero, 0, 1)


@compiled
def _group(i, counter, who):
    """Assignments by expert: ``order`` and ``position`` in it, ``groups``: how many, their experts, their bounds."""
    if _next(counter, who, np.int64(1)) < 0:
        return 0, 1
    expert, num, num_experts, gate, sorted_gate = _integers(i[1], i[2]), i[2], i[3], i[7], i[8]
    order, position, groups = _integers(i[4], num), _integers(i[5], num), _integers(i[6], 2 * num + 2)
    given, gate_of = _floats(gate, num), _floats(sorted_gate, num)
    start = np.zeros(num_experts + 1, np.int64)
    loops.begin_of_keys(expert, start)
    found = 0
    for e in range(num_experts):
        if start[e + 1] > start[e]:
            groups[1 + found], groups[1 + num + found] = e, start[e]
            found += 1
    groups[0], groups[1 + num + found] = found, num
    loops.counting_sort(expert, start[:-1], order)
    for at in range(num):
        position[order[at]] = at
        gate_of[at] = given[order[at]]
    return 1, 1


@compiled
def _gather(i, counter, who):
    """The rows of all assignments in their order, packed, times their gates where these stand before the experts."""
    x, k, num, width, order, gate, even_first, y = i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8]
    of, padded = _integers(order, num), (width + 31) // 32 * 32
    scaled = np.empty((1, width), np.float32)
    mine = 0
    while True:
        at = _next(counter, who, num)
        if at < 0:
            return mine, num
        mine += 1
        a = of[at]
        row, out = _rows(x + 4 * (a // k) * width, 1, width), _rows(y + 4 * at * padded, 1, padded)
        if gate != 0:
            g = _floats(gate, num)[at]
            for j in range(width):
                scaled[0, j] = row[0, j] * g
            pack(scaled, even_first != 0, out)
        else:
            pack(row, even_first != 0, out)


@compiled
def _combine(i, counter, who):
    r, num_rows, k, width, position, gate, y = i[1], i[2], i[3], i[4], i[5], i[6], i[7]
    num = num_rows * k
    of, g, rows, start = _integers(position, num), _floats(gate, num), _rows(r, num, width), np.array([0, k])
    mine = 0
    while True:
        n = _next(counter, who, num_rows)
        if n < 0:
            return mine, num_rows
        mine += 1
        loops.combine(rows, g, of[n * k : (n + 1) * k], start, _rows(y + 4 * n * width, 1, width), 0, 1)


@compiled
def _do(i, number, counter, who):
    """The pieces of an instruction that this thread gets. Returns how many, and how many there are."""
    name = i[0]
    if name == _PRODUCT:
        return _product(i, counter, who)
    if name == _PRODUCT_OF_EXPERTS:
        return _product_of_experts(i, counter, who)
    if name == _PACK:
        return _pack(i, counter, who)
    if name == _RMS_NORM:
        return _rms_norm(i, number, counter, who)
    if name == _ROTATE:
        return _rotate(i, counter, who)
    if name == _KEEP:
        return _keep(i, counter, who)
    if name == _ATTEND:
        return _attend(i, number, counter, who)
    if name == _SWIGLU:
        return _swiglu(i, counter, who)
    if name == _ADD:
        return _add(i, number, counter, who)
    if name == _ROUTE:
        return _route(i, counter, who)
    if name == _GROUP:
        return _group(i, counter, who)
    if name == _GATHER:
        return _gather(i, counter, who)
    return _combine(i, counter, who)


@compiled
def walk(shared, order, me):
    """The part of thread ``me`` in some instructions."""
    at = _integers(order, ORDER)
    counters, finished, left, run = at[COUNTERS], at[FINISHED], at[LEFT], at[RUN]
    who, alone = (run, me, at[THREADS]), (run, np.int64(0), np.int64(1))  # constants would be types of their own
    n = at[FIRST]
    while n < at[LAST]:
        i = _integers(at[CODE] + 8 * FIELDS * n, FIELDS)
        block, chain, counter = i[BLOCK], i[CHAIN], counters + 8 * COUNTED * n
        wait_until_at_least(shared + DONE, at[DONE_BEFORE] + block - at[FIRST_BLOCK])
        if chain > 1:
            mine, num = 1 + _claimed(counter + 8 * ZONES, run, np.int64(1)), 1
            for m in range(n, n + chain if mine > 0 else n):
                of, number = _integers(at[CODE] + 8 * FIELDS * m, FIELDS), _real(at[NUMBERS] + 8 * m)
                _do(of, number, counters + 8 * COUNTED * m, alone)
        else:
            mine, num = _do(i, _real(at[NUMBERS] + 8 * n), counter, who)
        if mine > 0 and atomic_add(finished + 8 * n, mine) + mine == num:
            for zone in range(at[THREADS]):  # who comes later may see other numbers of pieces
                atomic_add(counter + 8 * zone, TAKEN)
            if atomic_add(left + 8 * block, -1) == 1:
                atomic_add(shared + DONE, 1)
        n += chain


@compiled
def follow(shared, most):
    """Walk what the leader walks, until it says to leave."""
    seen, me = 0, 1 + atomic_add(shared + HELPERS, 1)
    while True:
        wait_until_at_least(shared + WALKS, seen + 1)
        seen = atomic_load(shared + WALKS)
        if atomic_load(shared + LEAVE) != 0 or seen > most:
            return
        walk(shared, shared + ORDERS + 8 * ORDER * (seen - 1), me)


@compiled
def lead(shared, order, blocks, most):
    """Walk what ``order`` says, together with whoever follows; return when all ``blocks`` are done."""
    seen = atomic_load(shared + WALKS)
    if seen < most:
        to, given = _integers(shared + ORDERS + 8 * ORDER * seen, ORDER), _integers(order, ORDER)
        for j in range(ORDER):
            to[j] = given[j]
        atomic_add(shared + WALKS, 1)
    walk(shared, order, np.int64(0))
    wait_until_at_least(shared + DONE, _integers(order, ORDER)[DONE_BEFORE] + blocks)


@compiled
def dismiss(shared):
    """Send those who follow away."""
    atomic_add(shared + LEAVE, 1)
    atomic_add(shared + WALKS, 1)
