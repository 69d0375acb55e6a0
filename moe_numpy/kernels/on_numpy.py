"""The kernels in whole-array NumPy: their definition.

Shapes: T tokens, E experts, k experts per token, N assignments, d and f widths. ``offsets`` has E1 = E + 1 integers
that go from 0 up to N; rows ``offsets[e]:offsets[e+1]`` belong to expert e. Indices and keys count from 0, and none is
negative: ``on_numba`` answers a wrong one with an IndexError, the code here does what NumPy does. The floats of one
call have one type; only weights ``w`` may have another.

Floats narrower than float32, such as bfloat16, are for storing: ``in_float32`` computes with wider copies.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Integer

from ..typing import Array, Float, Int, Shaped
from .narrow import in_float32


def top_k(scores: Float[Array, "T E"], k: int) -> Int[Array, "T k"]:
    """The k largest entries of each row, largest first. Ties go to the lowest index; NaN comes last."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def k_choices(num_tokens: int, k: int) -> tuple[Int[Array, " N"], Int[Array, " N"]]:
    """The token and the rank of each of N = T·k choices: 0, 0, 1, 1, 2, 2, ... and 0, 1, 0, 1, 0, 1, ..."""
    return np.repeat(np.arange(num_tokens), k), np.tile(np.arange(k), num_tokens)


def stable_order(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " N"]:
    """The permutation that sorts small integers ``0 <= key < num_keys`` and keeps equal ones in order.

    ``keys[order]`` is sorted: ``order[n]`` is the place in ``keys`` of what comes n-th.
    """
    return np.argsort(keys.astype(np.int16) if num_keys <= 2**15 else keys, kind="stable")


def sort_by_key(keys: Int[Array, " N"], num_keys: int) -> tuple[Int[Array, " N"], Int[Array, " K1"]]:
    """:func:`stable_order`, and where the entries with each key begin in it: num_keys + 1 offsets, the last one N."""
    return stable_order(keys, num_keys), offsets_of(count(keys, num_keys))


def count(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " num_keys"]:
    """How often each key occurs."""
    return np.bincount(keys, minlength=num_keys)


def offsets_of(counts: Int[Array, " E"]) -> Int[Array, " E1"]:
    """Where each group begins and ends: 0, c₀, c₀+c₁, ..."""
    return np.concatenate([np.zeros(1, counts.dtype), np.cumsum(counts)])


def position_in_group(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " N"]:
    """How many earlier entries have the same key: the place in the queue before an expert.

    ``0 <= key < num_keys``. Keys 2, 0, 2, 2 have the positions 0, 0, 1, 2.
    """
    order = stable_order(keys, num_keys)
    start = offsets_of(count(keys, num_keys))
    return place(np.arange(len(keys)) - start[keys[order]], order, len(keys))


def place(values: Shaped[Array, " N"], index: Int[Array, " N"], size: int) -> Shaped[Array, " size"]:
    """y[index[n]] = values[n] and 0 elsewhere; no index occurs twice. With a permutation: its inverse applied."""
    y = np.zeros(size, values.dtype)
    y[index] = values
    return y


def sum_by_key(values: Float[Array, " N"], keys: Int[Array, " N"], num_keys: int) -> Float[Array, " num_keys"]:
    """s_i = Σ of the values whose key is i."""
    return np.bincount(keys, weights=values, minlength=num_keys).astype(values.dtype)


def max_by_key(values: Float[Array, " N"], keys: Int[Array, " N"], num_keys: int) -> Float[Array, " num_keys"]:
    """m_i = the largest of the values whose key is i; -∞ for a key that does not occur."""
    y = np.full(num_keys, -np.inf, values.dtype)
    np.maximum.at(y, keys, values)
    return y


def add_at(y: Shaped[Array, "T E"], row: Int[Array, "..."], column: Int[Array, "..."], values: Any) -> None:
    """y[row, column] += values in place; an entry named twice gets both."""
    np.add.at(y, (row, column), values)


def to_host(x: Shaped[Array, "..."]) -> Any:
    """The same numbers as a NumPy array."""
    return x


@in_float32(0)
def add_rows(rows: Float[Array, "N d"], index: Integer[Array, " N"], num_rows: int) -> Float[Array, "num_rows d"]:
    """y[i] = Σ of the rows n with index[n] = i, added in the order of n.

    ``y[index] += rows`` would keep only the last of several rows with one index. So rows are added in rounds:
    round j adds the j-th row of each index, and within a round no index occurs twice.
    """
    y = np.zeros((num_rows, rows.shape[1]), rows.dtype)
    rank = position_in_group(index, num_rows)
    by_rank = np.argsort(rank, kind="stable")
    for _, round_j in _groups(offsets_of(np.bincount(rank))):
        chosen = by_rank[round_j]
        y[index[chosen]] += rows[chosen]
    return y


def take_rows(x: Shaped[Array, "T *d"], index: Int[Array, " N"]) -> Shaped[Array, "N *d"]:
    """y[n] = x[index[n]]: rows of a matrix, or entries of a vector."""
    return x[index]


@in_float32(0)
def row_products(a: Float[Array, "N d"], b: Float[Array, "N d"]) -> Float[Array, " N"]:
    """The inner product of each row of a with the same row of b."""
    return np.einsum("nd,nd->n", a, b)


@in_float32(0)
def combine(
    r: Float[Array, "N d"], w: Float[Array, " N"], token: Int[Array, " N"], num_tokens: int
) -> Float[Array, "num_tokens d"]:
    """y_t = Σ over the rows n of token t of w_n r_n, added in the order of n; zero for a token without rows."""
    return add_rows(r * w[:, None].astype(r.dtype), token, num_tokens)


@in_float32(1, 2)
def combine_gradient(
    grad: Float[Array, "T d"], r: Float[Array, "N d"], w: Float[Array, " N"], token: Int[Array, " N"]
) -> tuple[Float[Array, "N d"], Float[Array, " N"]]:
    """dr_n = w_n dy[token_n] and dw_n = r_n · dy[token_n]."""
    g = grad[token]
    d_w = row_products(g, r).astype(w.dtype)
    g *= w[:, None].astype(r.dtype)
    return g, d_w


def product(a: Float[Array, "m i"], b: Float[Array, "i n"]) -> Float[Array, "m n"]:
    """The matrix product a b. Either may be a transposed view."""
    return (a @ b).astype(np.result_type(a, b), copy=False)  # NumPy multiplies bfloat16 into float32


def grouped_product(
    x: Float[Array, "N i"], weight: Float[Array, "E o i"], offsets: Int[Array, " E1"]
) -> Float[Array, "N o"]:
    """y[n] = W_e x[n] for every row n of expert e."""
    y = np.empty((len(x), weight.shape[1]), x.dtype)
    for e, rows in _groups(offsets):
        np.matmul(x[rows], weight[e].T, out=y[rows])
    return y


def grouped_product_input_gradient(
    grad: Float[Array, "N o"], weight: Float[Array, "E o i"], offsets: Int[Array, " E1"]
) -> Float[Array, "N i"]:
    """dx[n] = W_eᵀ dy[n]."""
    dx = np.empty((len(grad), weight.shape[2]), grad.dtype)
    for e, rows in _groups(offsets):
        np.matmul(grad[rows], weight[e], out=dx[rows])
    return dx


def grouped_product_weight_gradient(
    grad: Float[Array, "N o"], x: Float[Array, "N i"], offsets: Int[Array, " E1"]
) -> Float[Array, "E o i"]:
    """dW_e = Σ over the rows n of expert e of dy[n] x[n]ᵀ; zero for an expert without rows.

    Rows ``offsets[e]:offsets[e+1]`` belong to expert e.
    """
    dw = np.zeros((len(offsets) - 1, grad.shape[1], x.shape[1]), x.dtype)
    for e, rows in _groups(offsets):
        np.matmul(grad[rows].T, x[rows], out=dw[e])
    return dw


@in_float32(0)
def grouped_sum(values: Float[Array, "N o"], offsets: Int[Array, " E1"]) -> Float[Array, "E o"]:
    """The sum of each expert's rows; zero for an expert without rows."""
    total = np.zeros((len(offsets) - 1, values.shape[1]), values.dtype)
    for e, rows in _groups(offsets):
        np.sum(values[rows], axis=0, out=total[e])
    return total


def add_to_groups(y: Float[Array, "N o"], bias: Float[Array, "E o"], offsets: Int[Array, " E1"]) -> Float[Array, "N o"]:
    """y[n] += b_e in place for every row n of expert e; returns y."""
    for e, rows in _groups(offsets):
        y[rows] += bias[e]
    return y


@in_float32(0)
def silu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """x σ(x) = x / (1 + exp(-x))."""
    y = _sigmoid(x)
    y *= x
    return y


@in_float32(1)
def silu_gradient(grad: Float[Array, "*n"], x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """dx = g s (1 + x (1 - s)) with s = σ(x)."""
    s = _sigmoid(x)
    dx = 1 - s
    dx *= x
    dx += 1
    dx *= s
    dx *= grad
    return dx


@in_float32(0)
def swiglu(gate: Float[Array, "*n"], up: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """silu(gate) · up."""
    y = _sigmoid(gate)
    y *= gate
    y *= up
    return y


@in_float32(1)
def swiglu_gradient(
    grad: Float[Array, "*batch f"], gate: Float[Array, "*batch f"], up: Float[Array, "*batch f"]
) -> Float[Array, "*batch two_f"]:
    """dL/dgate and beside it dL/dup, in one array: the gradient of one product that makes both.

    With s = σ(gate): dup = grad · gate s, and dgate = grad · up · s (1 + gate (1 - s)).
    """
    d, f = np.empty((*gate.shape[:-1], 2 * gate.shape[-1]), gate.dtype), gate.shape[-1]
    d_gate, d_up = d[..., :f], d[..., f:]
    s = _sigmoid(gate)
    np.multiply(gate, s, out=d_up)  # silu
    np.subtract(1, s, out=d_gate)
    d_gate *= d_up
    d_gate += s  # s + gate s (1 - s)
    d_gate *= up
    d_gate *= grad
    d_up *= grad
    return d


@in_float32(0)
def normal_cdf(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Φ(x) = (1 + erf(x/√2)) / 2, the distribution function of N(0, 1)."""
    from scipy.special import ndtr  # on use: it alone would double the time of `import moe_numpy`

    return ndtr(x)


@in_float32(0)
def gelu(x: Float[Array, "*n"], approximate: bool) -> Float[Array, "*n"]:
    """x Φ(x), with Φ(x) = (1 + erf(x/√2)) / 2, or (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³)."""
    return x * _normal_cdf(x, approximate)


@in_float32(1)
def gelu_gradient(grad: Float[Array, "*n"], x: Float[Array, "*n"], approximate: bool) -> Float[Array, "*n"]:
    """dx = g (Φ + x Φ'); Φ' is the normal density, or 2 Φ (1 - Φ) u' for tanh."""
    cdf = _normal_cdf(x, approximate)
    if approximate:
        density = 2 * cdf * (1 - cdf) * (math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x))
    else:
        density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return grad * (cdf + x * density)


@in_float32(0)
def softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """y = eˣ / Σ eˣ over the last axis; the maximum is taken off first, so that nothing overflows."""
    y = np.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y


@in_float32(1)
def softmax_gradient(grad: Float[Array, "*batch n"], y: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """dx = y (g - Σ g y)."""
    return y * (grad - (grad * y).sum(axis=-1, keepdims=True))


@in_float32(0)
def log_softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """y = x - ln Σ eˣ over the last axis."""
    y = x - x.max(axis=-1, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=-1, keepdims=True))
    return y


@in_float32(1)
def log_softmax_gradient(grad: Float[Array, "*batch n"], y: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """dx = g - eʸ Σ g."""
    return grad - np.exp(y) * grad.sum(axis=-1, keepdims=True)


def cross_entropy(
    x: Float[Array, "n V"], target: Integer[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, "n V"]]:
    """ln Σ_v e^{x[n,v]} - x[n, target[n]] for each row, and softmax(x), which the gradient needs."""
    shifted = x - x.max(axis=1, keepdims=True)
    x_target = shifted[np.arange(len(target)), target]
    p = np.exp(shifted, out=shifted)
    total = p.sum(axis=1, keepdims=True)
    p /= total
    return np.log(total[:, 0]) - x_target, p


def cross_entropy_gradient(
    grad: Float[Array, " n"], p: Float[Array, "n V"], target: Integer[Array, " n"]
) -> Float[Array, "n V"]:
    """dx = g_n (p - onehot(target))."""
    dx = p * grad[:, None]
    dx[np.arange(len(target)), target] -= grad
    return dx


@in_float32(0, None)
def rms_norm(
    x: Float[Array, "*batch d"], weight: Float[Array, " d"], eps: float
) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch 1"]]:
    """y = w x r and r = 1 / √(mean x² + ε), the mean over the last axis."""
    r = 1 / np.sqrt(np.vecdot(x, x)[..., None] / x.shape[-1] + x.dtype.type(eps))
    return x * r * weight, r


@in_float32(1, 3)
def rms_norm_gradient(
    grad: Float[Array, "*batch d"], x: Float[Array, "*batch d"], r: Float[Array, "*batch 1"], weight: Float[Array, " d"]
) -> tuple[Float[Array, "*batch d"], Float[Array, " d"]]:
    """dx = r (h - x̂ mean(h x̂)) with h = g w and x̂ = x r; dw = Σ g x̂ over all rows."""
    x_hat = x * r
    h = grad * weight
    dx = r * (h - x_hat * (np.vecdot(h, x_hat)[..., None] / x.shape[-1]))
    return dx, (grad * x_hat).reshape(-1, x.shape[-1]).sum(axis=0)


@in_float32(0)
def rotate(x: Float[Array, "B H S D"], cos: Float[Array, "S h"], sin: Float[Array, "S h"]) -> Float[Array, "B H S D"]:
    """(a cos - b sin, b cos + a sin) for the first half a and the second half b of each vector."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    y = np.empty(x.shape, x.dtype)
    y[..., :half] = a * cos - b * sin
    y[..., half:] = b * cos + a * sin
    return y


@in_float32(0, None, None)
def causal_attention(
    q: Float[Array, "B K GS D"], k: Float[Array, "B K L D"], v: Float[Array, "B K L D"], length: int, scale: float
) -> tuple[Float[Array, "B K GS D"], Float[Array, "B K GS L"], Float[Array, "B K GS 1"]]:
    """o = e v / Σ e and what its gradient needs, e = exp(q kᵀ · scale + mask - row maximum) and its row sums.

    The G query heads that share a key head lie one below the other, ``length`` = S rows each. Of the L keys, query i
    of a head sees 0 ... L - S + i.
    """
    num_keys = k.shape[2]
    e = (q * scale) @ k.swapaxes(-1, -2)
    each_head = e.reshape(*e.shape[:2], -1, length, num_keys)
    np.copyto(each_head, -np.inf, where=np.triu(np.ones((length, num_keys), bool), k=num_keys - length + 1))
    e -= e.max(axis=-1, keepdims=True)
    np.exp(e, out=e)
    total = e @ np.ones((num_keys, 1), e.dtype)  # row sums, by BLAS
    o = e @ v
    o /= total  # narrower than e
    return o, e, total


@in_float32(1, 2, 3)
def causal_attention_gradient(
    grad: Float[Array, "B K GS D"],
    q: Float[Array, "B K GS D"],
    k: Float[Array, "B K L D"],
    v: Float[Array, "B K L D"],
    o: Float[Array, "B K GS D"],
    e: Float[Array, "B K GS L"],
    total: Float[Array, "B K GS 1"],
    scale: float,
) -> tuple[Float[Array, "B K GS D"], Float[Array, "B K L D"], Float[Array, "B K L D"]]:
    """With p = e / total: dv = pᵀ g; ds = p (g vᵀ - Σ g o); dq = ds k · scale; dk = dsᵀ q · scale."""
    g = grad / total
    dv = e.swapaxes(-1, -2) @ g
    ds = g @ v.swapaxes(-1, -2)
    ds -= np.vecdot(g, o)[..., None]
    ds *= e
    dq = (ds @ k) * scale
    dk = ds.swapaxes(-1, -2) @ q * scale
    return dq, dk, dv


def sum_of_squares(arrays: list[Shaped[Array, "..."]]) -> float:
    """Σ x² over all entries of all arrays, in float64."""
    total = 0.0
    for x in arrays:
        flat = x.reshape(-1)
        total += float(np.einsum("i,i->", flat, flat, dtype=np.float64))
    return total


def adamw(
    parameters: list[Shaped[Array, "..."]],
    gradients: list[Shaped[Array, "..."]],
    first: list[Shaped[Array, "..."]],
    second: list[Shaped[Array, "..."]],
    decay: list[float],
    *,
    gradient_scale: float,
    betas: tuple[float, float],
    corrections: tuple[float, float],
    lr: float,
    eps: float,
) -> None:
    """One step for every parameter θ, in place, with g = gradient_scale · gradient and c₁, c₂ = ``corrections``::

    m = β₁ m + (1 - β₁) g
    v = β₂ v + (1 - β₂) g²
    θ = θ decay - lr (m / c₁) / (√(v / c₂) + ε)
    """
    (beta1, beta2), (c1, c2) = betas, corrections
    largest = max((m.nbytes for m in first), default=0)
    scratch = np.empty((2, largest), np.uint8)  # every line writes into memory that exists; new arrays double the time
    for p, grad, m, v, keep in zip(parameters, gradients, first, second, decay, strict=True):
        g, work = (buffer[: m.nbytes].view(m.dtype).reshape(m.shape) for buffer in scratch)
        np.multiply(grad, gradient_scale, out=g)

        np.multiply(g, 1 - beta1, out=work)
        m *= beta1
        m += work

        np.multiply(g, g, out=work)
        work *= 1 - beta2
        v *= beta2
        v += work

        denominator, update = work, g
        np.sqrt(v, out=denominator)
        denominator *= 1 / math.sqrt(c2)
        denominator += eps
        np.divide(m, denominator, out=update)
        update *= lr / c1
        p *= keep
        p -= update


def _sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)); exp may overflow to infinity for very negative x, whose sigmoid is 0 all the same."""
    with np.errstate(over="ignore"):
        y = np.exp(-x)
    y += 1
    return np.reciprocal(y, out=y)


def _normal_cdf(x: Any, approximate: bool) -> Any:
    if approximate:
        return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return normal_cdf(x)


def _groups(offsets: Any) -> list[tuple[int, slice]]:
    """The groups that have rows, each with the slice of its rows."""
    bounds = offsets.tolist()
    return [(e, slice(start, end)) for e, (start, end) in enumerate(pairwise(bounds)) if end > start]
