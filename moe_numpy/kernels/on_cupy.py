"""The kernels on a GPU: CUDA loops (``on_cupy.cu``) and cuBLAS. float32, float64 and bfloat16.

Each function computes what the kernel of its name defines, up to the order of sums. That order is fixed: there are no
atomic additions of floating-point numbers, so one input always gives the same bits. In bfloat16 the loops compute in
float32 between reading and writing, and cuBLAS is asked for sums in float32 (where it cuts a long sum into parts, it
may add the parts in bfloat16, as in other libraries). Nothing here waits for the device except for what the host must
know: :func:`to_host`. All shapes follow from shapes, so that a training step can be recorded as a CUDA graph.

A wrong index never touches other memory, but it is found late or never: a row that does not exist reads as row 0 and is
not written; a key that does not exist is left out of the sort, so the offsets do not end with the rows, and grouped
products make zeros of the rows after the last one. Index arrays are assumed not to change, and there is one GPU with
one stream: what was computed about an index array is remembered.
"""

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, SupportsIndex

import cupy as cp
import numpy as np
from jaxtyping import Integer

from ..typing import Array, Bool, Float, Int, Shaped
from . import attention, cublas, grouped_gemm, tiled_products
from .kernel import registry

AS_DEFINED = (  # what decoding on a GPU does not use
    "attend", "grouped_weight_product", "swiglu_of_halves", "weight_product", "weight_product_of_experts",
)  # fmt: skip

_PART = 512  # keys that one warp sorts
_FEW_KEYS = 1024  # sorted by counting, more by their digits
_MANY = 64  # a larger k is found by sorting
_THREADS = 256
_MOST, _CHUNK = 60, 1 << 14  # arrays in one launch, and the entries of them in one block
_TABLE = np.dtype(
    [
        ("array", np.uint64, (5, _MOST)),
        ("size", np.int64, _MOST),
        ("number", np.float64, _MOST),
        ("first", np.int32, _MOST),
    ]
)  # struct Table in on_cupy.cu
_MOVED_AS = {2: "bfloat16", 4: "float32", 8: "float64"}  # what moves entries of any type, by their bytes
_NARROW_ROW = 512  # entries; a row as long is the work of one warp


def add(a: Any, b: Any) -> Any:
    """Floats of equal shapes and types 16 bytes at a time."""
    alike = getattr(a, "shape", None) == getattr(b, "shape", 0) and a.dtype == b.dtype and a.dtype.itemsize in _MOVED_AS
    if not (alike and a.dtype.kind in "fV" and a.flags.c_contiguous and b.flags.c_contiguous):
        return a + b
    y = cp.empty(a.shape, a.dtype)
    aligned = all(x.data.ptr % 16 == 0 for x in (a, b, y))
    _each("add", a.dtype, -(-a.nbytes // 16), a, b, y, a.size, aligned)
    return y


def reshaped(x: Shaped[Array, "..."], shape: tuple[SupportsIndex, ...]) -> Shaped[Array, "..."]:
    """Copied by :func:`_dense` where the entries have to move."""
    return x.reshape(shape) if x.size == 0 or x.flags.c_contiguous else _dense(x).reshape(shape)


def top_k(scores: Float[Array, "T E"], k: int) -> Int[Array, "T k"]:
    """One warp for each row."""
    if k > _MANY:
        return cp.argsort(-_as(_sum_type(scores.dtype), scores), axis=1)[:, :k]  # CuPy's is stable
    scores = cp.ascontiguousarray(scores)
    y = cp.empty((len(scores), min(k, scores.shape[1])), np.int64)
    _launch("top_k", scores.dtype, (-(-len(scores) // 8),), (32, 8), scores, y, *scores.shape, y.shape[1])
    return y


def tokens_and_ranks(chosen: Int[Array, "T k"]) -> tuple[Int[Array, " N"], Int[Array, " N"]]:
    """The same arrays for every layer and step, so that what was computed about them is found again."""
    return _tokens_and_ranks(*chosen.shape, cp.cuda.get_allocator())


@lru_cache(maxsize=8)
def _tokens_and_ranks(num_tokens: int, k: int, allocator: Any) -> tuple[Any, Any]:
    """Those of a recorded graph lie in its own memory."""
    return cp.repeat(cp.arange(num_tokens), k), cp.tile(cp.arange(k), num_tokens)


def stable_order(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " N"]:
    return _sorted_by_key(keys, num_keys)[0]


def sort_by_key(keys: Int[Array, " N"], num_keys: int) -> tuple[Int[Array, " N"], Int[Array, " K1"]]:
    """Counting sort of parts side by side, or a radix sort for many keys."""
    return _sorted_by_key(keys, num_keys)


def count(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " num_keys"]:
    y = cp.zeros(num_keys, np.int64)
    keys = _index(keys)
    _each("count_keys", np.float32, len(keys), keys, len(keys), num_keys, y)
    return y


def offsets_of(counts: Int[Array, " E"]) -> Int[Array, " E1"]:
    y = cp.zeros(len(counts) + 1, counts.dtype)
    cp.cumsum(counts, out=y[1:])
    return y


def position_by_key(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " N"]:
    """The place in the sorted order, less the place of the first with this key."""
    order, start = _sorted_by_key(keys, num_keys)
    return scatter(cp.arange(len(order)) - start[keys[order]], order, len(order))


def scatter(values: Shaped[Array, " N"], index: Int[Array, " N"], size: int) -> Shaped[Array, " size"]:
    y, values, index = cp.zeros(size, values.dtype), cp.ascontiguousarray(values), _index(index)
    _each("scatter", _MOVED_AS[y.itemsize], len(values), values, index, y, len(values), size)
    return y


def sum_by_key(values: Float[Array, " N"], keys: Int[Array, " N"], num_keys: int) -> Float[Array, " num_keys"]:
    """One block for each key, added in float64."""
    return _reduce_by_key("sum_segments", values, keys, num_keys)


def max_by_key(values: Float[Array, " N"], keys: Int[Array, " N"], num_keys: int) -> Float[Array, " num_keys"]:
    """One block for each key."""
    return _reduce_by_key("max_segments", values, keys, num_keys)


def add_along_rows(values: Float[Array, "R m"], column: Int[Array, "R m"], width: int) -> Float[Array, "R width"]:
    """Sorted by target entry, so that each entry adds its values in order."""
    y = cp.zeros((len(values), width), values.dtype)
    index = (cp.arange(len(values))[:, None] * width + column).reshape(-1)
    order = cp.argsort(index.astype(np.int32) if y.size < 2**31 else index)
    _each("add_runs", y.dtype, len(index), index, order, cp.ascontiguousarray(values), len(index), y, y.size)
    return y


def uniforms(key: Integer[Array, " 2"], draw: int, size: int) -> Float[Array, " size"]:
    """One thread for two numbers."""
    y = cp.empty(size, np.float64)
    _each("uniforms", np.float32, -(-size // 2), _index(key), draw, y, size)
    return y


def to_host(x: Shaped[Array, "..."]) -> Any:
    """A copy, for which the host waits."""
    if cp.cuda.get_current_stream().is_capturing():
        raise RuntimeError("what follows depends on values that have to come to the host")
    return x.get()


def where_true(mask: Bool[Array, " M"]) -> tuple[Int[Array, " N"], Bool[Array, " M"] | None]:
    """All indices, and the mask."""
    return cp.arange(len(mask)), mask


def add_rows(rows: Float[Array, "N d"], index: Integer[Array, " N"], num_rows: int) -> Float[Array, "num_rows d"]:
    """One block for each row of the result."""
    return _combine(rows, None, index, num_rows)


def take_rows(x: Shaped[Array, "T *d"], index: Int[Array, " N"]) -> Shaped[Array, "N *d"]:
    """The indices are trusted."""
    x, index = cp.ascontiguousarray(x), _index(index)
    if x.ndim == 1:
        y = cp.empty(len(index), x.dtype)
        _each("take", _MOVED_AS[x.itemsize], len(y), x, index, y, len(y), len(x))
        return y
    rows = x.reshape(len(x), math.prod(x.shape[1:]))
    width = rows.shape[1]
    y = cp.empty((len(index), width), x.dtype)
    aligned = _aligned(width, rows, y)
    _rows("take_rows", _MOVED_AS[x.itemsize], len(y), width, rows, index, y, len(rows), width, aligned)
    return y.reshape(len(index), *x.shape[1:])


def row_products(a: Float[Array, "N d"], b: Float[Array, "N d"]) -> Float[Array, " N"]:
    a, b = cp.ascontiguousarray(a), cp.ascontiguousarray(_as(a.dtype, b))
    y = cp.empty(len(a), a.dtype)
    _rows("row_products", a.dtype, len(a), a.shape[1], a, b, y, a.shape[1], _aligned(a.shape[1], a, b))
    return y


def combine(
    r: Float[Array, "N d"], gate: Float[Array, " N"], token: Int[Array, " N"], num_tokens: int
) -> Float[Array, "num_tokens d"]:
    """One block for each token."""
    return _combine(r, cp.ascontiguousarray(gate, _sum_type(r.dtype)), token, num_tokens)


def combine_gradient(
    grad: Float[Array, "T d"], r: Float[Array, "N d"], gate: Float[Array, " N"], token: Int[Array, " N"]
) -> tuple[Float[Array, "N d"], Float[Array, " N"]]:
    """Both gradients in one pass."""
    grad, r, d = cp.ascontiguousarray(_as(r.dtype, grad)), cp.ascontiguousarray(r), r.shape[1]
    g = cp.ascontiguousarray(gate, _sum_type(r.dtype))
    d_r, d_gate = cp.empty(r.shape, r.dtype), cp.empty(len(r), g.dtype)
    aligned = _aligned(d, grad, r)
    _rows("combine_gradient", r.dtype, len(r), d, grad, r, g, _index(token), d_r, d_gate, len(grad), d, aligned)
    return d_r, d_gate.astype(gate.dtype, copy=False)


def product(a: Float[Array, "m i"], b: Float[Array, "i n"]) -> Float[Array, "m n"]:
    dtype = np.result_type(a.dtype, b.dtype)
    a, b = _for_blas(_as(dtype, a)), _for_blas(_as(dtype, b))
    y = cp.empty((a.shape[0], b.shape[1]), a.dtype)
    _multiply(y, a, b)
    return y


def wide_product(a: Float[Array, "m i"], b: Float[Array, "i n"], dtype: Any = None) -> Float[Array, "m n"]:
    """Products of two bfloat16 are exact in float32, in which tensor cores add them up.

    A float32 matrix on the left is cut into three of bfloat16, which add up to it exactly (Henry, Tang and Heinecke
    2019, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations").
    """
    if b.itemsize > 2 or a.itemsize > 4:
        y = product(a, b)
        return y if dtype is None else y.astype(dtype, copy=False)
    dtype = np.float32 if dtype is None else dtype
    if a.itemsize == 4 and len(a) < a.shape[1]:
        parts = wide_product(_cut_in_three(a, 0, b.dtype), b)
        return parts.reshape(3, len(a), -1).sum(axis=0).astype(dtype, copy=False)
    if a.itemsize == 4:
        a, b = _cut_in_three(a, 1, b.dtype), cp.concatenate([b, b, b])
    y = cp.empty((a.shape[0], b.shape[1]), dtype)
    _multiply(y, _for_blas(a), _for_blas(b))
    return y


def _cut_in_three(x: Float[Array, "m n"], axis: int, bfloat16: Any) -> Any:
    """Three matrices with the sum x, above or beside one another."""
    x, (m, n) = cp.ascontiguousarray(x), x.shape
    y = cp.empty((m, 3 * n) if axis else (3 * m, n), bfloat16)
    row_step, part_step = (3 * n, n) if axis else (n, m * n)
    _each("cut_in_three", np.float32, x.size, x, y, x.size, n, row_step, part_step)
    return y


def matmul(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """All matrices of a stack at once."""
    dtype = np.result_type(a.dtype, b.dtype)
    left, right = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = (
        cp.ascontiguousarray(cp.broadcast_to(_as(dtype, x), (*batch, *x.shape[-2:]))).reshape(-1, *x.shape[-2:])
        for x in (left, right)
    )
    y = _multiply_heads(left, right).reshape(*batch, left.shape[1], right.shape[2])
    y = y[..., 0, :] if a.ndim == 1 else y
    return y[..., 0] if b.ndim == 1 else y


def grouped_product(
    x: Float[Array, "N i"], weight: Float[Array, "E o i"], offsets: Int[Array, " E1"]
) -> Float[Array, "N o"]:
    """All experts in one launch; rows after the last offset become 0."""
    return _rows_by_matrices(x, weight, offsets, weight.shape[1], across=False)


def grouped_product_input_gradient(
    grad: Float[Array, "N o"], weight: Float[Array, "E o i"], offsets: Int[Array, " E1"]
) -> Float[Array, "N i"]:
    """All experts in one launch; rows after the last offset become 0."""
    return _rows_by_matrices(grad, weight, offsets, weight.shape[2], across=True)


def grouped_product_weight_gradient(
    grad: Float[Array, "N o"], x: Float[Array, "N i"], offsets: Int[Array, " E1"]
) -> Float[Array, "E o i"]:
    """All experts in one launch."""
    grad, x, offsets = cp.ascontiguousarray(_as(x.dtype, grad)), cp.ascontiguousarray(x), _index(offsets)
    dw = cp.empty((len(offsets) - 1, grad.shape[1], x.shape[1]), x.dtype)
    _for(dw, grad, x).sums_of_outer_products(dw, grad, x, offsets)
    return dw


def _rows_by_matrices(x: Any, weight: Any, offsets: Any, width: int, *, across: bool) -> Any:
    x, weight, offsets = cp.ascontiguousarray(x), cp.ascontiguousarray(_as(x.dtype, weight)), _index(offsets)
    y = cp.empty((len(x), width), x.dtype)
    _for(weight, x, y).rows_by_matrices(y, x, weight, offsets, across=across)
    return y


def _for(by_expert: Any, *rows: Any) -> Any:
    """What multiplies these arrays: the tensor cores if they can."""
    return grouped_gemm if grouped_gemm.fits(by_expert, *rows) else tiled_products


def sum_of_expert_rows(values: Float[Array, "N o"], offsets: Int[Array, " E1"]) -> Float[Array, "E o"]:
    values, width = cp.ascontiguousarray(values), values.shape[1]
    total = cp.empty((len(offsets) - 1, width), values.dtype)
    grid = (-(-width // _THREADS), len(total))
    _launch("expert_sums", values.dtype, grid, (_THREADS,), values, _index(offsets), total, width)
    return total


def add_expert_bias(
    y: Float[Array, "N o"], bias: Float[Array, "E o"], offsets: Int[Array, " E1"]
) -> Float[Array, "N o"]:
    """One block for each row."""
    rows = cp.ascontiguousarray(y)
    bias = cp.ascontiguousarray(_as(y.dtype, bias))
    _rows("add_expert_bias", y.dtype, len(y), y.shape[1], rows, bias, _index(offsets), len(bias), y.shape[1])
    return rows


def silu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return _entry_by_entry("silu", x)


def silu_gradient(grad: Float[Array, "*n"], x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return _entry_by_entry("silu_gradient", grad, x)


def swiglu(gate: Float[Array, "*n"], up: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Halves of a wider array are read in place."""
    a, b = _strided(gate), _strided(_as(gate.dtype, up))
    y = cp.empty(a.shape, a.dtype)
    width = a.shape[1]
    aligned = _aligned(width, a, b)
    _by_columns("swiglu", y, a, b, _step(a), _step(b), y, width, aligned)
    return y.reshape(gate.shape)


def swiglu_gradient(
    grad: Float[Array, "*batch f"], gate: Float[Array, "*batch f"], up: Float[Array, "*batch f"]
) -> Float[Array, "*batch two_f"]:
    g, a, b = _matrix(_as(gate.dtype, grad)), _strided(gate), _strided(_as(gate.dtype, up))
    rows, width = g.shape
    d = cp.empty((rows, 2 * width), gate.dtype)
    aligned = _aligned(width, g, a, b, d)
    _by_columns("swiglu_gradient", g, g, a, b, _step(a), _step(b), d, width, aligned)
    return d.reshape(*gate.shape[:-1], 2 * width)


def normal_cdf(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return _entry_by_entry("normal_cdf", x)


def gelu(x: Float[Array, "*n"], approximate: bool) -> Float[Array, "*n"]:
    return _entry_by_entry("gelu", x, settings=(approximate,))


def gelu_gradient(grad: Float[Array, "*n"], x: Float[Array, "*n"], approximate: bool) -> Float[Array, "*n"]:
    return _entry_by_entry("gelu_gradient", grad, x, settings=(approximate,))


def softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """One block for each row."""
    return _row_by_row("softmax", x)


def softmax_gradient(grad: Float[Array, "*batch n"], y: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """One block for each row."""
    return _row_by_row("softmax_gradient", grad, y)


def log_softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """One block for each row."""
    return _row_by_row("log_softmax", x)


def log_softmax_gradient(grad: Float[Array, "*batch n"], y: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """One block for each row."""
    return _row_by_row("log_softmax_gradient", grad, y)


def cross_entropy(
    x: Float[Array, "n V"], target: Integer[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, "n V"]]:
    """One block for each row."""
    x, width = cp.ascontiguousarray(x), x.shape[1]
    p, losses = cp.empty(x.shape, x.dtype), cp.empty(len(x), x.dtype)
    _rows("cross_entropy", x.dtype, len(x), width, x, _index(target), losses, p, width)
    return losses, p


def cross_entropy_gradient(
    grad: Float[Array, " n"], p: Float[Array, "n V"], target: Integer[Array, " n"]
) -> Float[Array, "n V"]:
    grad, p, width = cp.ascontiguousarray(_as(p.dtype, grad)), cp.ascontiguousarray(p), p.shape[1]
    dx = cp.empty(p.shape, p.dtype)
    _rows("cross_entropy_gradient", p.dtype, len(p), width, grad, p, _index(target), dx, width)
    return dx


def rms_norm(
    x: Float[Array, "*batch d"], weight: Float[Array, " d"], eps: float
) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch 1"]]:
    """One block for each row. r is float32 in bfloat16."""
    rows, weight, width = _matrix(x), cp.ascontiguousarray(_as(x.dtype, weight)), x.shape[-1]
    y, r = cp.empty(rows.shape, x.dtype), cp.empty(len(rows), _sum_type(x.dtype))
    aligned = _aligned(width, rows, y) and weight.data.ptr % 16 == 0
    _rows("rms_norm", x.dtype, len(rows), width, rows, weight, float(eps), y, r, width, aligned)
    return y.reshape(x.shape), r.reshape(*x.shape[:-1], 1)


def rms_norm_gradient(
    grad: Float[Array, "*batch d"], x: Float[Array, "*batch d"], r: Float[Array, "*batch 1"], weight: Float[Array, " d"]
) -> tuple[Float[Array, "*batch d"], Float[Array, " d"]]:
    """dw is summed part by part."""
    g, rows, width = _matrix(_as(x.dtype, grad)), _matrix(x), x.shape[-1]
    scale = cp.ascontiguousarray(_as(_sum_type(x.dtype), r)).reshape(-1)
    dx = cp.empty(rows.shape, x.dtype)
    w = cp.ascontiguousarray(_as(x.dtype, weight))
    aligned = _aligned(width, g, rows, dx) and w.data.ptr % 16 == 0
    _rows("rms_norm_gradient", x.dtype, len(rows), width, g, rows, scale, w, dx, width, aligned)
    part, threads, columns = 32, 128, 16 // x.itemsize
    sums = cp.empty((-(-len(rows) // part), width), scale.dtype)
    grid = (len(sums), -(-width // (threads * columns)))
    sizes = len(rows), part, width
    _launch("rms_norm_weight_gradient", x.dtype, grid, (threads,), g, rows, scale, sums, *sizes, aligned)
    return dx.reshape(x.shape), sums.sum(axis=0).astype(weight.dtype, copy=False)


def rotate(
    x: Float[Array, "B H S Dh"], cos: Float[Array, "S half"], sin: Float[Array, "S half"]
) -> Float[Array, "B H S Dh"]:
    x = x if x.strides[3] == x.itemsize else cp.ascontiguousarray(x)
    _, heads, length, width = x.shape
    half, together = width // 2, 16 // x.itemsize
    y = cp.empty(x.shape, x.dtype)
    angles = [cp.ascontiguousarray(_as(x.dtype, a)) for a in (cos, sin)]
    pieces = x.size // width * -(-half // together)
    if pieces >= 2**32:
        raise ValueError(f"rotate: x is too large for one launch, got {x.shape}")
    aligned = half % together == 0 and all(s % 16 == 0 for a in (x, y, *angles) for s in (a.data.ptr, *a.strides[:-1]))
    sizes = [np.uint32(n) for n in (pieces, heads, length, half)]
    _each("rotate", x.dtype, pieces, x, *angles, y, *sizes, *[s // x.itemsize for s in x.strides[:3]], aligned)
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
    """All heads at once. Scores and sums are float32 in bfloat16; no scores at all where the loops take the width.

    With ``first`` or sinks as defined.
    """
    if first is not None or sinks is not None:
        o, e, total = _defined("causal_attention", q, k, v, length, scale, first, sinks)
        return o.astype(q.dtype, copy=False), e, total
    if attention.fits(q, k, v, length, scale):
        q, k, v = [_dense(_as(q.dtype, x)) for x in (q, k, v)]
        o, log_sum = attention.forward(q, k, v, length, scale)
        return o, cp.empty((*q.shape[:3], 0), q.dtype), log_sum
    q3, k3, v3 = [_heads(_as(q.dtype, x)) for x in (q, k, v)]
    (heads, rows), num_keys = q3.shape[:2], k3.shape[1]
    sums = _sum_type(q.dtype)
    scores = _multiply_heads(q3, k3.swapaxes(1, 2), sums, scale)
    e, total = cp.empty(scores.shape, q.dtype), cp.empty((heads, rows), sums)
    _rows("attention_weights", q.dtype, heads * rows, num_keys, scores, e, total, length, num_keys)
    weighted = _multiply_heads(e, v3, sums)
    o = cp.empty(weighted.shape, q.dtype)
    _rows("divide_rows", q.dtype, heads * rows, v3.shape[2], weighted, total, o, v3.shape[2])
    shape = q.shape[:3]
    return o.reshape(*shape, v3.shape[2]), e.reshape(*shape, num_keys), total.reshape(*shape, 1)


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
    """All heads at once, with sinks as defined. Where a query sees no earlier chunk, its e there are zero."""
    if e.shape[3] > k.shape[2]:
        results = _defined("causal_attention_gradient", grad, q, k, v, o, e, total, length, scale)
        return tuple([x.astype(q.dtype, copy=False) for x in results])
    if e.shape[3] < k.shape[2]:
        grad, q, k, v, o = [_dense(_as(q.dtype, x)) for x in (grad, q, k, v, o)]
        return *attention.gradient(grad, q, k, v, o, _as(np.float32, total), length, scale), None
    grad3, q3, k3, v3, o3, e3 = [_heads(_as(q.dtype, x)) for x in (grad, q, k, v, o, e)]
    (heads, rows, num_keys), d = e3.shape, v3.shape[2]
    total = cp.ascontiguousarray(_as(_sum_type(q.dtype), total))
    g = cp.empty(grad3.shape, q.dtype)
    _rows("divide_gradient", q.dtype, heads * rows, d, grad3, total, g, d)
    dv = _multiply_heads(e3.swapaxes(1, 2), g)
    d_p = _multiply_heads(g, v3.swapaxes(1, 2), _sum_type(q.dtype))
    d_s = cp.empty(e3.shape, q.dtype)
    _rows("score_gradient", q.dtype, heads * rows, num_keys, d_p, e3, g, o3, d_s, num_keys, d)
    dq = _multiply_heads(d_s, k3, scale=scale)
    dk = _multiply_heads(d_s.swapaxes(1, 2), q3, scale=scale)
    return dq.reshape(q.shape), dk.reshape(k.shape), dv.reshape(v.shape), None


def sum_of_squares(arrays: list[Shaped[Array, "..."]]) -> Shaped[Array, ""]:
    """All arrays of one type in one launch."""
    parts = []
    for dtype in sorted({x.dtype.name for x in arrays}):
        mine = [(cp.ascontiguousarray(x),) for x in arrays if x.dtype.name == dtype]
        for table, blocks in _tables(mine, [0.0] * len(mine)):
            sums = cp.empty(blocks)
            _launch("squares", mine[0][0].dtype, (blocks,), (_THREADS,), table, sums)
            parts.append(sums.sum())
    return sum(parts[1:], parts[0]) if parts else cp.zeros(())


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
    """All parameters in one launch. Gradients may be bfloat16."""
    by_type: dict[str, list[tuple[tuple[Any, ...], float]]] = {}
    for p, grad, m, v, rate, narrow in zip(parameters, gradients, first, second, decay, rounded, strict=True):
        if not (p.flags.c_contiguous and m.flags.c_contiguous and v.flags.c_contiguous):
            raise ValueError("adamw: parameters and moments must be contiguous, since they change in place")
        if not p.dtype == m.dtype == v.dtype == _sum_type(p.dtype):
            raise TypeError(
                f"adamw: parameters and moments must be float32 or float64, got {p.dtype}, {m.dtype}, {v.dtype}"
            )
        grad = cp.ascontiguousarray(grad if _sum_type(grad.dtype) == p.dtype else _as(p.dtype, grad))
        if narrow is not None and not (narrow.flags.c_contiguous and narrow.dtype == grad.dtype):
            raise ValueError("adamw: a rounded parameter must be contiguous and of the type of its gradient")
        by_type.setdefault(grad.dtype.name, []).append(((p, grad, m, v, narrow), float(rate)))
    for mine in by_type.values():
        arrays, rates = zip(*mine, strict=True)
        for table, blocks in _tables(arrays, rates):
            numbers = cp.ascontiguousarray(now), *map(float, (*betas, eps))
            _launch("adamw", arrays[0][1].dtype, (blocks,), (_THREADS,), table, *numbers)


# Matrix multiplication. cuBLAS reads matrices column by column: to it, a matrix with contiguous rows is its transpose.
# So it computes yᵀ = bᵀ aᵀ.

_ZERO_AND_ONE = {t: np.array([0, 1], t) for t in (np.dtype(np.float32), np.dtype(np.float64))}
_ZERO = {t: numbers.ctypes.data for t, numbers in _ZERO_AND_ONE.items()}  # cuBLAS reads factors at their addresses
_ONE = {t: address + t.itemsize for t, address in _ZERO.items()}
# CUBLAS_COMPUTE_32F, which is not TF32, or CUBLAS_COMPUTE_64F, each with CUBLAS_GEMM_DEFAULT.
_COMPUTE = {np.dtype(np.float32): (68, -1), np.dtype(np.float64): (70, -1)}


def _multiply(y: Any, a: Any, b: Any) -> None:
    """y = a b for matrices with contiguous rows or columns, y with contiguous rows."""
    (m, k), n = a.shape, b.shape[1]
    if not k:
        y.fill(0)
    elif m and n:
        (b_transposed, b_step), (a_transposed, a_step) = _layout(b), _layout(a)
        sums, kind = _sum_type(a.dtype), _blas_type(a.dtype)
        one, zero, algorithm = _ONE[sums], _ZERO[sums], _COMPUTE[sums]
        right, left = (b.data.ptr, kind, b_step), (a.data.ptr, kind, a_step)
        result = y.data.ptr, _blas_type(y.dtype), n
        cublas.gemm(b_transposed, a_transposed, n, m, k, one, *right, *left, zero, *result, *algorithm)


def _multiply_heads(a: Any, b: Any, dtype: Any = None, scale: float = 1.0) -> Any:
    """y[h] = scale · a[h] b[h], in ``dtype`` if given."""
    (heads, m, k), n = a.shape, b.shape[2]
    sums, kind = _sum_type(a.dtype), _blas_type(a.dtype)
    y = cp.empty((heads, m, n), a.dtype if dtype is None else dtype)
    if y.size:
        (b_transposed, b_step), (a_transposed, a_step) = _layout(b[0]), _layout(a[0])
        right, left = ((x.data.ptr, kind, step, x.strides[0] // x.itemsize) for x, step in ((b, b_step), (a, a_step)))
        result = y.data.ptr, _blas_type(y.dtype), n, m * n
        factor = np.array(scale, sums)
        settings = b_transposed, a_transposed, n, m, k, factor.ctypes.data
        cublas.gemm_of_stacks(*settings, *right, *left, _ZERO[sums], *result, heads, *_COMPUTE[sums])
    return y


def _layout(x: Any) -> tuple[int, int]:
    """Whether cuBLAS must transpose the matrix, and the step between its rows or columns."""
    if x.strides[1] == x.itemsize or x.shape[1] == 1:
        return 0, max(x.strides[0] // x.itemsize, x.shape[1])
    return 1, max(x.strides[1] // x.itemsize, x.shape[0])


def _for_blas(x: Any) -> Any:
    return x if x.itemsize in x.strides and min(x.strides) > 0 else cp.ascontiguousarray(x)


# Launching.


@cache
def _loop(name: str, dtype: Any) -> Any:
    return _module(dtype).get_function(name)


@cache
def _module(dtype: Any) -> Any:
    names = {"float32": ("float", "float"), "float64": ("double", "double"), "bfloat16": ("__nv_bfloat16", "float")}
    if dtype.name not in names:
        raise TypeError(f"the GPU kernels take {', '.join(names)}, got {dtype.name}")
    real, acc = names[dtype.name]
    source = Path(__file__).with_name("on_cupy.cu").read_text()
    return cp.RawModule(code=source, options=("--std=c++17", f"-DREAL={real}", f"-DACC={acc}"))


def _launch(
    name: str, dtype: Any, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any, shared: int = 0
) -> None:
    if all(grid):
        _loop(name, np.dtype(dtype))(grid, block, arguments, shared_mem=shared)


def _each(name: str, dtype: Any, size: int, *arguments: Any) -> None:
    """One thread for each entry."""
    _launch(name, dtype, (-(-size // _THREADS),), (_THREADS,), *arguments)


def _rows(name: str, dtype: Any, num_rows: int, width: int, *arguments: Any) -> None:
    """One block for each row: a warp for a narrow one."""
    threads = 32 if width <= _NARROW_ROW else 128 if width <= 4096 else _THREADS
    _launch(name, dtype, (num_rows,), (threads,), *arguments)


def _by_columns(name: str, like: Any, *arguments: Any) -> None:
    """One thread for each 16 bytes of the rows of a matrix."""
    per_thread = 16 // like.itemsize
    num_rows, width = like.shape
    blocks = -(-width // (per_thread * _THREADS))
    _launch(name, like.dtype, (num_rows, blocks), (_THREADS,), *arguments)


def _tables(arrays: Sequence[tuple[Any, ...]], numbers: Sequence[float]) -> Iterator[tuple[Any, int]]:
    """Arrays of equal sizes in tables for one launch each, and how many blocks a launch has."""
    entries = [(row, number) for row, number in zip(arrays, numbers, strict=True) if row[0].size]
    for start in range(0, len(entries), _MOST):
        table, blocks = np.zeros(1, _TABLE), 0
        one = table[0]
        one["first"] = np.iinfo(np.int32).max
        for i, (row, number) in enumerate(entries[start : start + _MOST]):
            one["array"][: len(row), i] = [0 if x is None else x.data.ptr for x in row]
            one["size"][i], one["number"][i], one["first"][i] = row[0].size, number, blocks
            blocks += -(-row[0].size // _CHUNK)
        yield table, blocks


def _entry_by_entry(name: str, *arrays: Any, settings: tuple[Any, ...] = ()) -> Any:
    arrays = tuple([cp.ascontiguousarray(_as(arrays[-1].dtype, x)) for x in arrays])
    y = cp.empty(arrays[-1].shape, arrays[-1].dtype)
    _each(name, y.dtype, y.size, *arrays, y, *settings, y.size)
    return y


def _row_by_row(name: str, *arrays: Any) -> Any:
    matrices = [_matrix(_as(arrays[-1].dtype, x)) for x in arrays]
    y = cp.empty(matrices[-1].shape, matrices[-1].dtype)
    _rows(name, y.dtype, *y.shape, *matrices, y, y.shape[1])
    return y.reshape(arrays[-1].shape)


def _combine(r: Any, gate: Any, token: Any, num_tokens: int) -> Any:
    r, d = cp.ascontiguousarray(r), r.shape[1]
    order, start = _sorted_by_key(token, num_tokens)
    y = cp.empty((num_tokens, d), r.dtype)
    gates = np.uint64(0) if gate is None else gate  # a null pointer
    _rows("combine", r.dtype, num_tokens, d, r, gates, order, start, y, d, _aligned(d, r, y))
    return y


def _reduce_by_key(name: str, values: Any, keys: Any, num_keys: int) -> Any:
    order, start = _sorted_by_key(keys, num_keys)
    y = cp.empty(num_keys, values.dtype)
    threads = 128 if len(order) > 64 * num_keys else 32
    _launch(name, values.dtype, (num_keys,), (threads,), cp.ascontiguousarray(values), order, start, y)
    return y


def _sorted_by_key(keys: Any, num_keys: int) -> tuple[Any, Any]:
    """The stable order of the keys, and where the entries with each key begin in it."""
    return _remember(("order", num_keys), keys, lambda: _sort_by_key(_index(keys), num_keys))


def _sort_by_key(keys: Any, num_keys: int) -> tuple[Any, Any]:
    if num_keys <= _FEW_KEYS:
        return _counting_sort(keys, num_keys)
    size, order = len(keys), cp.arange(len(keys))
    for shift in range(0, num_keys.bit_length(), 8):  # digit by digit, the last first; a wrong key sorts as num_keys
        digits = cp.empty(size, np.int64)
        _each("digits", np.float32, size, keys, order, size, num_keys, shift, digits)
        order = take_rows(order, _counting_sort(digits, 256)[0])
    start = cp.empty(num_keys + 1, np.int64)
    _each("starts_in_order", np.float32, size + 1, keys, order, size, num_keys, start)
    return order, start


def _counting_sort(keys: Any, num_keys: int) -> tuple[Any, Any]:
    size, start = len(keys), cp.empty(num_keys + 1, np.int64)
    parts = max(-(-size // _PART), 1)
    counts, following = cp.empty((2, num_keys, parts), np.int64)
    order = cp.zeros(size, np.int64)  # a wrong key leaves its place 0
    settings, shared = (keys, size, _PART, num_keys), 4 * num_keys
    _launch("count_in_parts", np.float32, (parts,), (128,), *settings, counts, shared=shared)
    _launch("sum_before", np.float32, (1,), (1024,), counts, num_keys, parts, following, start)
    _launch("sort_parts", np.float32, (parts,), (32,), *settings, following, order, shared=shared)
    return order, start


_facts: dict[tuple[Any, int], tuple[Any, Any]] = {}


def _remember(what: Any, array: Any, compute: Callable[[], Any]) -> Any:
    """What ``compute`` found out about an index array, kept as long as the array lives; index arrays do not change.

    One layer needs its offsets on the host up to six times, and the order of its tokens three times.
    """
    key = what, id(array)
    known = _facts.get(key)
    if known is not None and known[0]() is array:
        return known[1]
    value = compute()
    _facts[key] = weakref.ref(array, lambda _: _facts.pop(key, None)), value
    return value


def _defined(name: str, *arguments: Any) -> Any:
    """What the definition returns for these arguments, those in bfloat16 as float32."""
    wide = [x.astype(np.float32) if getattr(x, "dtype", np.dtype(int)).kind == "V" else x for x in arguments]
    return registry[name].definition(*wide)


def _as(dtype: Any, x: Any) -> Any:
    """x in this type. Loops and cuBLAS get bare memory and would misread another type."""
    return x if x.dtype == dtype else x.astype(dtype)


def _aligned(width: int, *arrays: Any) -> bool:
    """Whether all rows can be moved 16 bytes at a time."""
    return all(x.data.ptr % 16 == 0 and width * x.itemsize % 16 == 0 and x.strides[0] % 16 == 0 for x in arrays)


def _strided(x: Any) -> Any:
    """x as a matrix with contiguous rows: a view where it is one already, or is contiguous."""
    return x if x.ndim == 2 and x.strides[1] == x.itemsize and x.strides[0] > 0 else _matrix(x)


def _step(x: Any) -> int:
    return x.strides[0] // x.itemsize


def _dense(x: Any) -> Any:
    """x without gaps; rows are moved 16 bytes at a time where they can be."""
    if x.flags.c_contiguous or not 2 <= x.ndim <= 4 or x.itemsize not in _MOVED_AS:
        return cp.ascontiguousarray(x)
    *outer, width = x.shape
    *steps, step = x.strides
    whole = all(n % 16 == 0 and n >= 0 for n in (x.data.ptr, width * x.itemsize, *steps))
    pieces = x.nbytes // 16
    if not whole or step != x.itemsize or not 0 < pieces < 2**31:
        return cp.ascontiguousarray(x)
    y, missing = cp.empty(x.shape, x.dtype), 3 - len(outer)
    _, rows, columns = [1] * missing + outer
    sizes = [np.uint32(n) for n in (pieces, rows, columns, width * x.itemsize // 16)]
    _each("dense", _MOVED_AS[x.itemsize], pieces, x, y, *sizes, *[0] * missing, *[s // x.itemsize for s in steps])
    return y


def _matrix(x: Any) -> Any:
    """x as a contiguous matrix: all axes but the last are one."""
    return _dense(x).reshape(math.prod(x.shape[:-1]), x.shape[-1] if x.ndim else 1)


def _heads(x: Any) -> Any:
    """[B, K, rows, columns] as [B K, rows, columns]."""
    return _dense(x).reshape(-1, *x.shape[2:])


def _index(x: Any) -> Any:
    return cp.ascontiguousarray(x, np.int64)


def _sum_type(dtype: Any) -> Any:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _blas_type(dtype: Any) -> int:
    return {"float32": 0, "float64": 1, "bfloat16": 14}[dtype.name]  # CUDA_R_32F, CUDA_R_64F, CUDA_R_16BF
