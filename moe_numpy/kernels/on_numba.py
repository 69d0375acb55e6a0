"""The kernels on all cores of a CPU: compiled loops (``loops.py``), NumPy's exponentials, BLAS on blocks.

Each function computes what the kernel of its name defines, up to the order of sums. It allocates its result, cuts the
rows into blocks and lets all threads work on them (``threads.py``); large results come from ``workspace.py``. The
kernels in :data:`AS_DEFINED` are left to their definitions, which are one pass of NumPy's own compiled code.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Integer

from ..typing import Array, Float, Int, Shaped
from . import loops, product_loops, program_loops
from .decoders import DECODERS
from .kernel import registry
from .threads import blocks, one_thread_products, run
from .threads import count as num_threads
from .workspace import empty

AS_DEFINED = (
    "add", "add_along_rows", "count", "normal_cdf", "offsets_of", "reshaped", "scatter", "to_host", "tokens_and_ranks",
    "uniforms", "where_true", "wide_product",
)  # fmt: skip

_BLOCK = 1 << 15  # entries that one thread takes at once: 128 KB of float32, a part of its cache
_ATTENDED = 1 << 20  # multiplications of attention that one thread takes at once
_MANY = 64  # a larger k is found by sorting
_PRODUCT = 512  # rows or columns of a matrix that one thread takes at once; 256 is 7 % slower with two threads
_SMALL_PRODUCT = 1 << 20  # multiplications; fewer are not worth handing to another thread
_SMALL_WEIGHTS = 1 << 19  # multiplications of a block of a weight matrix: some 50 µs
_TINY_PRODUCT = 1 << 13  # multiplications; for fewer, OpenBLAS uses one thread by itself


def top_k(scores: Float[Array, "T E"], k: int) -> Int[Array, "T k"]:
    """Insertion into a short sorted list."""
    if k > _MANY:
        return registry["top_k"].definition(scores, k)
    scores = np.ascontiguousarray(scores)
    y = np.empty((len(scores), min(k, scores.shape[1])), np.int64)
    _by_rows(len(scores), scores.shape[1] * 4, loops.top_k, scores, y)
    return y


def stable_order(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " N"]:
    return sort_by_key(keys, num_keys)[0]


def sort_by_key(keys: Int[Array, " N"], num_keys: int) -> tuple[Int[Array, " N"], Int[Array, " K1"]]:
    """Counting sort."""
    keys = _index(keys, num_keys)
    start, order = np.zeros(num_keys + 1, np.int64), np.empty(len(keys), np.int64)
    loops.begin_of_keys(keys, start)
    loops.counting_sort(keys, start[:-1].copy(), order)
    return order, start


def position_by_key(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " N"]:
    """One pass with a counter for each key."""
    y = np.empty(len(keys), np.int64)
    loops.position_by_key(_index(keys, num_keys), np.zeros(num_keys, np.int64), y)
    return y


def sum_by_key(values: Float[Array, " N"], keys: Int[Array, " N"], num_keys: int) -> Float[Array, " num_keys"]:
    """In float64."""
    total = np.zeros(num_keys)
    loops.sum_by_key(np.ascontiguousarray(values), _index(keys, num_keys), total)
    return total.astype(values.dtype, copy=False)


def max_by_key(values: Float[Array, " N"], keys: Int[Array, " N"], num_keys: int) -> Float[Array, " num_keys"]:
    y = np.full(num_keys, -np.inf, values.dtype)
    loops.max_by_key(np.ascontiguousarray(values), _index(keys, num_keys), y)
    return y


def take_rows(x: Shaped[Array, "T *d"], index: Int[Array, " N"]) -> Shaped[Array, "N *d"]:
    if x.ndim == 1:
        return x[index]
    rows, index = np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:])), _index(index, len(x))
    y = empty((len(index), rows.shape[1]), x.dtype)
    _by_rows(len(y), rows.shape[1], loops.take_rows, rows, index, y)
    return y.reshape(len(index), *x.shape[1:])


def add_rows(rows: Float[Array, "N d"], index: Integer[Array, " N"], num_rows: int) -> Float[Array, "num_rows d"]:
    """One thread adds all rows of an index, so that no two threads write to one row."""
    rows = np.ascontiguousarray(rows)
    order, start = sort_by_key(index.astype(np.int64, copy=False), num_rows)
    y = empty((num_rows, rows.shape[1]), rows.dtype)
    work = rows.size // max(num_rows, 1) + rows.shape[1]
    _by_rows(num_rows, work, loops.add_rows, rows, order, start, y)
    return y


def row_products(a: Float[Array, "N d"], b: Float[Array, "N d"]) -> Float[Array, " N"]:
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    y = np.empty(len(a), a.dtype)
    _by_rows(len(a), a.shape[1], loops.row_products, a, b, y, _zero(a))
    return y


def combine(
    r: Float[Array, "N d"], gate: Float[Array, " N"], token: Int[Array, " N"], num_tokens: int
) -> Float[Array, "num_tokens d"]:
    """Weights and adds in one pass."""
    r, gate = np.ascontiguousarray(r), np.ascontiguousarray(gate, r.dtype)
    order, start = sort_by_key(token, num_tokens)
    y = empty((num_tokens, r.shape[1]), r.dtype)
    work = r.size // max(num_tokens, 1) + r.shape[1]
    _by_rows(num_tokens, work, loops.combine, r, gate, order, start, y)
    return y


def combine_gradient(
    grad: Float[Array, "T d"], r: Float[Array, "N d"], gate: Float[Array, " N"], token: Int[Array, " N"]
) -> tuple[Float[Array, "N d"], Float[Array, " N"]]:
    """Both gradients in one pass."""
    grad, r, g = np.ascontiguousarray(grad), np.ascontiguousarray(r), np.ascontiguousarray(gate, r.dtype)
    d_r, d_gate = empty(r.shape, r.dtype), np.empty(len(r), r.dtype)
    arrays = grad, r, g, _index(token, len(grad)), d_r, d_gate
    _by_rows(len(r), 2 * r.shape[1], loops.combine_gradient, *arrays, _zero(r))
    return d_r, d_gate.astype(gate.dtype, copy=False)


def product(a: Float[Array, "m i"], b: Float[Array, "i n"]) -> Float[Array, "m n"]:
    """Blocks of rows or of columns side by side, whichever there are more of."""
    (m, inner), n = a.shape, b.shape[1]
    if m * n * inner < _TINY_PRODUCT:
        return a @ b
    y = empty((m, n), np.result_type(a, b))
    if m >= n:
        work: list[Any] = blocks(m, _PRODUCT // 2)
        _multiply(lambda s: np.matmul(a[s], b, out=y[s]), work, m * n * inner)
    else:
        work = blocks(n, _PRODUCT // 2)
        _multiply(lambda s: np.matmul(a, b[:, s], out=y[:, s]), work, m * n * inner)
    return y


def matmul(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """The matrices of a stack side by side."""
    if a.ndim < 2 or b.ndim < 2:
        with one_thread_products():
            return a @ b
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left, right = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    y = empty((*batch, a.shape[-2], b.shape[-1]), np.result_type(a, b))
    work = list(np.ndindex(batch))
    _multiply(lambda i: np.matmul(left[i], right[i], out=y[i]), work, y.size * a.shape[-1])
    return y


def grouped_product(
    x: Float[Array, "N i"], weight: Float[Array, "E o i"], offsets: Int[Array, " E1"]
) -> Float[Array, "N o"]:
    """Blocks of rows of all experts side by side."""
    y, offsets = empty((len(x), weight.shape[1]), x.dtype), _ascending(offsets, len(x))
    y[offsets[-1] :] = 0
    work = _blocks_of_experts(offsets)
    _multiply(lambda b: np.matmul(x[b[1]], weight[b[0]].T, out=y[b[1]]), work, y.size * x.shape[1])
    return y


def grouped_product_input_gradient(
    grad: Float[Array, "N o"], weight: Float[Array, "E o i"], offsets: Int[Array, " E1"]
) -> Float[Array, "N i"]:
    """Blocks of rows of all experts side by side."""
    dx, offsets = empty((len(grad), weight.shape[2]), grad.dtype), _ascending(offsets, len(grad))
    dx[offsets[-1] :] = 0
    work = _blocks_of_experts(offsets)
    _multiply(lambda b: np.matmul(grad[b[1]], weight[b[0]], out=dx[b[1]]), work, dx.size * grad.shape[1])
    return dx


def grouped_product_weight_gradient(
    grad: Float[Array, "N o"], x: Float[Array, "N i"], offsets: Int[Array, " E1"]
) -> Float[Array, "E o i"]:
    """Blocks of rows of the gradients of all experts side by side."""
    bounds = _ascending(offsets, len(x)).tolist()
    dw = empty((len(bounds) - 1, grad.shape[1], x.shape[1]), x.dtype)
    work = [(e, columns) for e in range(len(dw)) for columns in blocks(grad.shape[1], _PRODUCT)]
    _multiply(partial(_weight_gradient, grad, x, dw, bounds), work, len(x) * grad.shape[1] * x.shape[1])
    return dw


def sum_of_expert_rows(values: Float[Array, "N o"], offsets: Int[Array, " E1"]) -> Float[Array, "E o"]:
    values, offsets = np.ascontiguousarray(values), _ascending(offsets, len(values))
    total = np.empty((len(offsets) - 1, values.shape[1]), values.dtype)
    work = values.size // max(len(total), 1)
    _by_rows(len(total), work, loops.expert_sums, values, offsets, total)
    return total


def add_expert_bias(
    y: Float[Array, "N o"], bias: Float[Array, "E o"], offsets: Int[Array, " E1"]
) -> Float[Array, "N o"]:
    if not y.flags.c_contiguous:
        return registry["add_expert_bias"].definition(y, bias, offsets)
    bias, offsets = np.ascontiguousarray(bias), _ascending(offsets, len(y))
    work = y.size // max(len(bias), 1)
    _by_rows(len(bias), work, loops.add_expert_bias, y, bias, offsets)
    return y


def silu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    flat = np.ascontiguousarray(x).reshape(-1)
    y = empty(flat.shape, x.dtype)
    _by_rows(flat.size, 1, _silu, flat, y)
    return y.reshape(x.shape)


def silu_gradient(grad: Float[Array, "*n"], x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    g, flat = np.ascontiguousarray(grad).reshape(-1), np.ascontiguousarray(x).reshape(-1)
    dx = empty(flat.shape, x.dtype)
    _by_rows(flat.size, 1, _silu_gradient, g, flat, dx)
    return dx.reshape(x.shape)


def swiglu(gate: Float[Array, "*n"], up: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Halves of a wider array are read in place."""
    a, b = _rows(gate), _rows(up)
    y = empty(a.shape, gate.dtype)
    _by_rows(len(y), y.shape[1], _swiglu, a, y, [_line(x) for x in (a, b)])
    return y.reshape(gate.shape)


def swiglu_gradient(
    grad: Float[Array, "*batch f"], gate: Float[Array, "*batch f"], up: Float[Array, "*batch f"]
) -> Float[Array, "*batch two_f"]:
    g, a, b = _matrix(grad), _rows(gate), _rows(up)
    (rows, f), d = g.shape, empty((len(g), 2 * g.shape[1]), gate.dtype)
    _by_rows(rows, 2 * f, _swiglu_gradient, g, a, d, [_line(x) for x in (a, b)])
    return d.reshape(*gate.shape[:-1], 2 * f)


def gelu(x: Float[Array, "*n"], approximate: bool) -> Float[Array, "*n"]:
    """A block at a time, so that temporaries stay in the cache."""
    flat = np.ascontiguousarray(x).reshape(-1)
    y = empty(flat.shape, x.dtype)
    _by_rows(flat.size, 1, _gelu, flat, approximate, y)
    return y.reshape(x.shape)


def gelu_gradient(grad: Float[Array, "*n"], x: Float[Array, "*n"], approximate: bool) -> Float[Array, "*n"]:
    """A block at a time, so that temporaries stay in the cache."""
    g, flat = np.ascontiguousarray(grad).reshape(-1), np.ascontiguousarray(x).reshape(-1)
    dx = empty(flat.shape, x.dtype)
    _by_rows(flat.size, 1, _gelu_gradient, g, flat, approximate, dx)
    return dx.reshape(x.shape)


def softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    rows = _matrix(x)
    y = empty(rows.shape, x.dtype)
    _by_rows(len(rows), rows.shape[1], _softmax, rows, y)
    return y.reshape(x.shape)


def softmax_gradient(grad: Float[Array, "*batch n"], y: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    g, p = _matrix(grad), _matrix(y)
    dx = empty(p.shape, y.dtype)
    _by_rows(len(p), p.shape[1], loops.softmax_gradient, g, p, dx, _zero(y))
    return dx.reshape(y.shape)


def log_softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    rows = _matrix(x)
    y = empty(rows.shape, x.dtype)
    _by_rows(len(rows), rows.shape[1], _log_softmax, rows, y)
    return y.reshape(x.shape)


def log_softmax_gradient(grad: Float[Array, "*batch n"], y: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    g, rows = _matrix(grad), _matrix(y)
    dx = empty(rows.shape, y.dtype)
    _by_rows(len(rows), rows.shape[1], _log_softmax_gradient, rows, g, dx)
    return dx.reshape(y.shape)


def cross_entropy(
    x: Float[Array, "n V"], target: Integer[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, "n V"]]:
    x, target = np.ascontiguousarray(x), _index(target, x.shape[1])
    p, losses = empty(x.shape, x.dtype), np.empty(len(x), x.dtype)
    _by_rows(len(x), x.shape[1], _cross_entropy, x, target, p, losses)
    return losses, p


def cross_entropy_gradient(
    grad: Float[Array, " n"], p: Float[Array, "n V"], target: Integer[Array, " n"]
) -> Float[Array, "n V"]:
    grad, target = np.ascontiguousarray(grad), _index(target, p.shape[1])
    dx = empty(p.shape, p.dtype)
    _by_rows(len(p), p.shape[1], loops.cross_entropy_gradient, grad, p, target, dx)
    return dx


def rms_norm(
    x: Float[Array, "*batch d"], weight: Float[Array, " d"], eps: float
) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch 1"]]:
    rows, weight, number = _matrix(x), np.ascontiguousarray(weight), x.dtype.type
    y, r = empty(rows.shape, x.dtype), np.empty(len(rows), x.dtype)
    settings = (_zero(x), _one(x), number(x.shape[-1]))
    _by_rows(len(rows), rows.shape[1], loops.rms_norm, rows, weight, number(eps), y, r, *settings)
    return y.reshape(x.shape), r.reshape(*x.shape[:-1], 1)


def rms_norm_gradient(
    grad: Float[Array, "*batch d"], x: Float[Array, "*batch d"], r: Float[Array, "*batch 1"], weight: Float[Array, " d"]
) -> tuple[Float[Array, "*batch d"], Float[Array, " d"]]:
    """dw is summed block by block."""
    g, rows, weight = _matrix(grad), _matrix(x), np.ascontiguousarray(weight)
    scales = np.ascontiguousarray(r).reshape(-1)
    dx = empty(rows.shape, x.dtype)
    step = _rows_in_block(rows.shape[1])
    sums = np.zeros((-(-len(rows) // step), rows.shape[1]), x.dtype)
    width = x.dtype.type(x.shape[-1])
    _by_rows(len(rows), rows.shape[1], _rms_norm_gradient, g, rows, scales, weight, dx, sums, step, width)
    return dx.reshape(x.shape), sums.sum(axis=0)


def rotate(
    x: Float[Array, "B H S Dh"], cos: Float[Array, "S half"], sin: Float[Array, "S half"]
) -> Float[Array, "B H S Dh"]:
    x = np.ascontiguousarray(x)
    y = empty(x.shape, x.dtype)
    _by_rows(len(x), x[:1].size, loops.rotate, x, cos, sin, y)
    return y


def causal_attention(
    q: Float[Array, "B Hkv GS Dh"],
    k: Float[Array, "B Hkv keys Dh"],
    v: Float[Array, "B Hkv keys Dv"],
    length: int,
    scale: float,
    first: Int[Array, " S"] | None = None,
    sinks: Float[Array, "Hkv GS"] | None = None,
) -> tuple[Float[Array, "B Hkv GS Dv"], Float[Array, "B Hkv GS _"], Float[Array, "B Hkv GS 1"]]:
    """One head at a time: its scores stay in the cache."""
    o = empty((*q.shape[:3], v.shape[3]), q.dtype)
    e = empty((*q.shape[:3], k.shape[2] + (sinks is not None)), q.dtype)
    total = np.empty((*q.shape[:3], 1), q.dtype)
    first = np.zeros(length, np.int64) if first is None else np.ascontiguousarray(first, np.int64)
    task = partial(_head, q, k, v, o, e, total, length, scale, first, sinks)
    _multiply(task, list(np.ndindex(q.shape[:2])), 2 * e.size * q.shape[3])
    return o, e, total


def attend(
    q: Float[Array, "n H Dh"],
    keys: Float[Array, "keys Hkv Dh"],
    values: Float[Array, "keys Hkv Dv"],
    first: Int[Array, " n"],
    scale: float,
    sinks: Float[Array, " H"] | None,
) -> Float[Array, "n H Dv"]:
    """Queries and heads side by side, each by itself."""
    y, number = np.empty((*q.shape[:2], values.shape[2]), q.dtype), q.dtype.type
    sinks = np.empty(0, q.dtype) if sinks is None else sinks.astype(q.dtype, copy=False)
    arrays = np.ascontiguousarray(q), keys, values, np.ascontiguousarray(first, np.int64)
    rows, cost = len(q) * q.shape[1], len(keys) * (q.shape[2] + values.shape[2])

    def block(s: slice) -> None:
        scores = np.empty(len(keys), q.dtype)
        loops.attend(*arrays, number(scale), sinks, scores, y, number(0), s.start, s.stop)

    run(block, blocks(rows, max(_ATTENDED // max(cost, 1), 1)))
    return y


def causal_attention_gradient(
    grad: Float[Array, "B Hkv GS Dv"],
    q: Float[Array, "B Hkv GS Dh"],
    k: Float[Array, "B Hkv keys Dh"],
    v: Float[Array, "B Hkv keys Dv"],
    o: Float[Array, "B Hkv GS Dv"],
    e: Float[Array, "B Hkv GS _"],
    total: Float[Array, "B Hkv GS 1"],
    length: int,
    scale: float,
) -> tuple[
    Float[Array, "B Hkv GS Dh"],
    Float[Array, "B Hkv keys Dh"],
    Float[Array, "B Hkv keys Dv"],
    Float[Array, "B Hkv GS"] | None,
]:
    """One head at a time."""
    dq, dk, dv = empty(q.shape, q.dtype), empty(k.shape, q.dtype), empty(v.shape, q.dtype)
    dsinks = empty(q.shape[:3], q.dtype) if e.shape[3] > k.shape[2] else None
    task = partial(_head_gradient, grad, q, k, v, o, e, total, scale, dq, dk, dv, dsinks)
    _multiply(task, list(np.ndindex(q.shape[:2])), 4 * e.size * q.shape[3])
    return dq, dk, dv, dsinks


def weight_product(x: Float[Array, "N in"], matrix: Any) -> Float[Array, "N out"]:
    """Blocks of rows of the matrix side by side."""
    if not _has_loop(x, matrix):
        return registry["weight_product"].definition(x, matrix)
    y, packed = empty((len(x), matrix.shape[0]), x.dtype), _packed(x, matrix.format)
    weights = product_loops.operands(matrix)
    rows = packed.ctypes.data, len(x), y.ctypes.data, y.strides[0]
    _by_weights(y.size * x.shape[1], y.shape[1], lambda lo, hi: product_loops.product(*weights, *rows, lo, hi))
    return y


def weight_product_of_experts(x: Float[Array, "N in"], stack: Any, experts: Int[Array, " N"]) -> Float[Array, "N out"]:
    """Blocks of rows of all matrices side by side."""
    experts = _index(experts, len(stack))
    if not _has_loop(x, stack):
        return registry["weight_product_of_experts"].definition(x, stack, experts)
    y, packed = empty((len(x), stack.shape[1]), x.dtype), _packed(x, stack.format)
    weights = *product_loops.operands(stack), experts
    rows = packed.ctypes.data, y.ctypes.data, y.strides[0]
    loop = product_loops.product_of_experts
    _by_weights(y.size * x.shape[1], y.shape[1], lambda lo, hi: loop(*weights, *rows, lo, hi))
    return y


def grouped_weight_product(x: Float[Array, "N in"], stack: Any, offsets: Int[Array, " E1"]) -> Float[Array, "N out"]:
    """Blocks of rows of all matrices side by side."""
    offsets = _ascending(offsets, len(x))
    if not _has_loop(x, stack):
        return registry["grouped_weight_product"].definition(x, stack, offsets)
    y, packed, bounds = empty((len(x), stack.shape[1]), x.dtype), _packed(x, stack.format), offsets.tolist()
    y[bounds[-1] :] = 0
    kind, codes, step, stride, scales, scales_step, scales_stride, *shape = product_loops.operands(stack)

    def block(item: tuple[int, slice]) -> None:
        e, rows = item
        weights = kind, codes + e * stride, step, scales + e * scales_stride, scales_step, *shape
        first, num = bounds[e], bounds[e + 1] - bounds[e]
        inputs, outputs = packed.ctypes.data + first * packed.strides[0], y.ctypes.data + first * y.strides[0]
        product_loops.product(*weights, inputs, num, outputs, y.strides[0], rows.start, rows.stop)

    own = [e for e in range(len(stack)) if bounds[e] < bounds[e + 1]]
    run(block, [(e, rows) for e in own for rows in blocks(y.shape[1], _PRODUCT)])
    return y


def swiglu_of_halves(h: Float[Array, "N two_f"]) -> Float[Array, "N f"]:
    """With the exponentials of ``program_loops``."""
    if h.dtype != np.float32 or not hasattr(program_loops.swiglu_of_row, "py_func"):
        return registry["swiglu_of_halves"].definition(h)
    h, f = np.ascontiguousarray(h), h.shape[1] // 2
    y = empty((len(h), f), h.dtype)

    def block(rows: slice) -> None:
        for n in range(rows.start, rows.stop):
            program_loops.swiglu_of_row(h[n, :f], h[n, f:], y[n])

    run(block, blocks(len(h), _rows_in_block(8 * f)))
    return y


def sum_of_squares(arrays: list[Shaped[Array, "..."]]) -> Shaped[Array, ""]:
    """Block by block, then the sum over blocks."""
    flat = [np.ascontiguousarray(x).reshape(-1) for x in arrays]
    work = [(i, part) for i, x in enumerate(flat) for part in blocks(x.size, 4 * _BLOCK)]
    sums = np.zeros(len(work))

    def block(n: int) -> None:
        i, part = work[n]
        sums[n] = loops.sum_of_squares(flat[i][part], np.float64(0))

    run(block, list(range(len(work))))
    return np.asarray(sums.sum())


def adamw(
    parameters: list[Shaped[Array, "..."]],
    gradients: list[Shaped[Array, "..."]],
    first: list[Shaped[Array, "..."]],
    second: list[Shaped[Array, "..."]],
    decay: list[float],
    rounded: list[Shaped[Array, "..."] | None],
    now: Float[Array, "4"],
    *,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """One pass over all entries, blocks of all parameters side by side."""
    scale, lr, c1, c2 = now.tolist()
    if not math.isfinite(scale):
        return
    beta1, beta2 = betas
    numbers = (scale, beta1, 1 - beta1, beta2, 1 - beta2, 1 / math.sqrt(c2), lr / c1, eps)
    flat = []
    for p, grad, m, v in zip(parameters, gradients, first, second, strict=True):
        in_place = [x.reshape(-1) for x in (p, m, v)]
        if p.size and not all(map(np.may_share_memory, in_place, (p, m, v))):
            raise ValueError("adamw: parameters and moments change in place, so their entries must be evenly spaced")
        flat.append((in_place[0], np.ascontiguousarray(grad).reshape(-1), in_place[1], in_place[2]))
    work = [(i, part) for i, (p, *_) in enumerate(flat) for part in blocks(p.size, _BLOCK)]

    def block(item: tuple[int, slice]) -> None:
        i, part = item
        number = flat[i][2].dtype.type
        loops.adamw(*(x[part] for x in flat[i]), number(1 - lr * decay[i]), *(number(x) for x in numbers))

    run(block, work)
    for p, narrow in zip(parameters, rounded, strict=True):
        if narrow is not None:
            narrow[...] = p


# What one thread does with one block of a matrix multiplication, or with one head.


def _weight_gradient(grad: Any, x: Any, dw: Any, bounds: list[int], block: tuple[int, slice]) -> None:
    e, columns = block
    rows = slice(bounds[e], bounds[e + 1])
    if bounds[e] == bounds[e + 1]:
        dw[e, columns] = 0
    else:
        np.matmul(grad[rows, columns].T, x[rows], out=dw[e, columns])


def _head(
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    e: Any,
    total: Any,
    length: int,
    scale: float,
    first: Any,
    sinks: Any,
    i: tuple[int, ...],
) -> None:
    num_sinks = e.shape[3] - k.shape[2]
    scores = e[i][:, num_sinks:]
    np.matmul(q[i] * scale, k[i].T, out=scores)
    if sinks is not None:
        e[i][:, 0] = sinks[i[1]]
    loops.mask_and_shift(e[i], length, first, num_sinks)
    np.exp(e[i], out=e[i])
    loops.row_sums(e[i], total[i][:, 0], _zero(q))
    np.matmul(scores, v[i], out=o[i])
    o[i] /= total[i]


def _head_gradient(
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    e: Any,
    total: Any,
    scale: float,
    dq: Any,
    dk: Any,
    dv: Any,
    dsinks: Any,
    i: tuple[int, ...],
) -> None:
    g = grad[i] / total[i]
    weights = e[i][:, e.shape[3] - k.shape[2] :]
    np.matmul(weights.T, g, out=dv[i])
    ds = empty(weights.shape, e.dtype)
    np.matmul(g, v[i].T, out=ds)
    loops.score_gradient(ds, g, o[i], weights, _zero(q))
    if dsinks is not None:
        dsinks[i] = -e[i][:, 0] * np.vecdot(g, o[i])
    np.matmul(ds, k[i], out=dq[i])
    dq[i] *= scale
    np.matmul(ds.T, q[i], out=dk[i])
    dk[i] *= scale


# What one thread does with the rows lo ... hi-1, where that is more than one loop.


def _silu(x: Any, y: Any, lo: int, hi: int) -> None:
    loops.silu(_exp_minus(x[lo:hi]), x[lo:hi], y[lo:hi], _one(x))


def _silu_gradient(grad: Any, x: Any, dx: Any, lo: int, hi: int) -> None:
    loops.silu_gradient(_exp_minus(x[lo:hi]), grad[lo:hi], x[lo:hi], dx[lo:hi], _one(x))


def _swiglu(gate: Any, y: Any, lines: list[tuple[Any, int]], lo: int, hi: int) -> None:
    parts = [part for line, step in lines for part in (line[lo * step :], step)]
    loops.swiglu(_exp_minus(gate[lo:hi]), *parts, y[lo:hi], _one(y))


def _swiglu_gradient(grad: Any, gate: Any, d: Any, lines: list[tuple[Any, int]], lo: int, hi: int) -> None:
    parts = [part for line, step in lines for part in (line[lo * step :], step)]
    loops.swiglu_gradient(_exp_minus(gate[lo:hi]), grad[lo:hi], *parts, d[lo:hi], _one(grad))


def _gelu(x: Any, approximate: bool, y: Any, lo: int, hi: int) -> None:
    y[lo:hi] = registry["gelu"].definition(x[lo:hi], approximate)


def _gelu_gradient(grad: Any, x: Any, approximate: bool, dx: Any, lo: int, hi: int) -> None:
    dx[lo:hi] = registry["gelu_gradient"].definition(grad[lo:hi], x[lo:hi], approximate)


def _softmax(x: Any, y: Any, lo: int, hi: int) -> None:
    loops.shift_by_maximum(x, y, lo, hi)
    np.exp(y[lo:hi], out=y[lo:hi])
    loops.divide_by_sum(y, _zero(x), lo, hi)


def _log_softmax(x: Any, y: Any, lo: int, hi: int) -> None:
    loops.shift_by_maximum(x, y, lo, hi)
    loops.subtract_log_sum(np.exp(y[lo:hi]), y, _zero(x), lo, hi)


def _log_softmax_gradient(y: Any, grad: Any, dx: Any, lo: int, hi: int) -> None:
    loops.log_softmax_gradient(np.exp(y[lo:hi]), grad, dx, _zero(y), lo, hi)


def _cross_entropy(x: Any, target: Any, p: Any, losses: Any, lo: int, hi: int) -> None:
    loops.shift_by_maximum(x, p, lo, hi)
    loops.pick(p, target, losses, lo, hi)
    np.exp(p[lo:hi], out=p[lo:hi])
    loops.losses_and_softmax(p, losses, _zero(x), lo, hi)


def _rms_norm_gradient(
    grad: Any, x: Any, r: Any, weight: Any, dx: Any, sums: Any, step: int, width: Any, lo: int, hi: int
) -> None:
    loops.rms_norm_gradient(grad, x, r, weight, dx, sums[lo // step], _zero(x), width, lo, hi)


def _by_rows(num_rows: int, entries_of_row: int, loop: Callable[..., object], *arguments: Any) -> None:
    """Call ``loop(*arguments, lo, hi)`` for blocks of rows, on all threads."""
    work = blocks(num_rows, _rows_in_block(entries_of_row))
    run(lambda rows: loop(*arguments, rows.start, rows.stop), work)


def _rows_in_block(entries_of_row: int) -> int:
    return max(1, _BLOCK // max(entries_of_row, 1))


def _multiply(task: Callable[[Any], object], work: list[Any], multiplications: int) -> None:
    """Call ``task`` on blocks of a matrix multiplication, on all threads if it is large; BLAS itself uses one."""
    with one_thread_products():
        if multiplications < _SMALL_PRODUCT:
            for item in work:
                task(item)
        else:
            run(task, work)


def _has_loop(x: Any, weights: Any) -> bool:
    """Whether compiled code exists for these numbers; not with NUMBA_DISABLE_JIT=1, as its body is no Python."""
    return x.dtype == np.float32 and weights.operands.compiled and hasattr(product_loops.product, "py_func")


def _by_weights(multiplications: int, num_rows: int, loop: Callable[[int, int], object]) -> None:
    """Call ``loop(lo, hi)`` for few large blocks of the rows of a weight matrix, on all threads."""
    parts = min(max(1, multiplications // _SMALL_WEIGHTS), 2 * num_threads())
    size = -(-num_rows // parts) + 15 & -16
    run(lambda rows: loop(rows.start, rows.stop), blocks(num_rows, max(size, 16)))


def _packed(x: Any, format: str) -> Any:
    """Rows of x as ``product_loops`` reads them: padded to multiples of 32, from a multiple of 64 bytes."""
    width = -(-x.shape[1] // 32) * 32
    memory = np.empty(len(x) * width + 16, x.dtype)
    skipped = -memory.ctypes.data % 64 // 4
    y = memory[skipped : skipped + len(x) * width].reshape(len(x), width)
    product_loops.pack(np.ascontiguousarray(x), DECODERS[format].even_first, y)
    return y


def _blocks_of_experts(offsets: Any) -> list[Any]:
    """The experts that have rows, each with slices of at most ``_PRODUCT`` of its rows."""
    bounds = offsets.tolist()
    return [
        (e, slice(bounds[e] + part.start, bounds[e] + part.stop))
        for e in range(len(bounds) - 1)
        for part in blocks(bounds[e + 1] - bounds[e], _PRODUCT)
    ]


def _exp_minus(x: Any) -> Any:
    """exp(-x) of one block; it may overflow to infinity, which gives its users the correct limit."""
    e = -x
    with np.errstate(over="ignore"):
        return np.exp(e, out=e)


def _rows(x: Any) -> Any:
    """x as a matrix with contiguous rows: a view where it is one already, or is contiguous."""
    return x if x.ndim == 2 and x.strides[1] == x.itemsize and x.strides[0] > 0 else _matrix(x)


def _line(x: Any) -> tuple[Any, int]:
    """The memory under a matrix with contiguous rows, as one line of entries, and the step from row to row."""
    if x.flags.c_contiguous:
        return x.reshape(-1), x.shape[1]
    step = x.strides[0] // x.itemsize
    length = max(len(x) - 1, 0) * step + x.shape[1] * min(len(x), 1)
    return np.lib.stride_tricks.as_strided(x, (length,), (x.itemsize,)), step


def _matrix(x: Any) -> Any:
    """x as a contiguous matrix: all axes but the last are one."""
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1] if x.ndim else 1)


def _index(x: Any, size: int) -> Any:
    """Indices as the loops need them: contiguous and in range, since the loops do not check where they write."""
    index = np.ascontiguousarray(x, np.int64)
    wrong = loops.first_outside(index, size)
    if wrong >= 0:
        raise IndexError(f"index {index[wrong]} is out of bounds: expected 0 to {size - 1}")
    return index


def _ascending(offsets: Any, end: int) -> Any:
    """Offsets as the loops need them: contiguous, and ascending from 0 to at most ``end``."""
    offsets = np.ascontiguousarray(offsets, np.int64)
    if not loops.ascend(offsets, end):
        raise IndexError(f"offsets must go from 0 up to at most {end}, the number of rows, got {offsets.tolist()}")
    return offsets


def _zero(x: Any) -> Any:
    return x.dtype.type(0)


def _one(x: Any) -> Any:
    return x.dtype.type(1)
