"""The kernels in whole-array NumPy: their definition.

Shapes: T tokens, E experts, k experts per token, N assignments, d and f widths. ``offsets`` has E1 = E + 1 integers;
rows ``offsets[e]:offsets[e+1]`` belong to expert e.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from ..typing import Array, Float, Int, Shaped


def top_k(scores: Float[Array, "T E"], k: int) -> Int[Array, "T k"]:
    """The k largest entries of each row, largest first. Ties go to the lowest index; NaN comes last."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def stable_order(keys: Int[Array, " N"], num_keys: int) -> Int[Array, " N"]:
    """The permutation that sorts small integers ``0 <= key < num_keys`` and keeps equal ones in order.

    ``keys[order]`` is sorted: ``order[n]`` is the place in ``keys`` of what comes n-th.
    """
    return np.argsort(keys.astype(np.int16) if num_keys <= 2**15 else keys, kind="stable")


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


def add_rows(rows: Float[Array, "N d"], index: Int[Array, " N"], num_rows: int) -> Float[Array, "num_rows d"]:
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


def row_products(a: Float[Array, "N d"], b: Float[Array, "N d"]) -> Float[Array, " N"]:
    """The inner product of each row of a with the same row of b."""
    return np.einsum("nd,nd->n", a, b)


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


def swiglu(gate: Shaped[Array, "*n"], up: Shaped[Array, "*n"]) -> Shaped[Array, "*n"]:
    """silu(gate) · up, where silu(g) = g σ(g) = g / (1 + exp(-g))."""
    y = _sigmoid(gate)
    y *= gate
    y *= up
    return y


def swiglu_gradient(
    grad: Shaped[Array, "*n"], gate: Shaped[Array, "*n"], up: Shaped[Array, "*n"], out: tuple[Any, Any]
) -> None:
    """Write dL/dgate and dL/dup into ``out``.

    With s = σ(gate): dup = grad · gate s, and dgate = grad · up · s (1 + gate (1 - s)).
    """
    d_gate, d_up = out
    s = _sigmoid(gate)
    np.multiply(gate, s, out=d_up)  # silu
    np.subtract(1, s, out=d_gate)
    d_gate *= d_up
    d_gate += s  # s + gate s (1 - s)
    d_gate *= up
    d_gate *= grad
    d_up *= grad


def _sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)); exp may overflow to infinity for very negative x, whose sigmoid is 0 all the same."""
    with np.errstate(over="ignore"):
        y = np.exp(-x)
    y += 1
    return np.reciprocal(y, out=y)


def _groups(offsets: Any) -> list[tuple[int, slice]]:
    """The groups that have rows, each with the slice of its rows."""
    bounds = offsets.tolist()
    return [(e, slice(start, end)) for e, (start, end) in enumerate(pairwise(bounds)) if end > start]
