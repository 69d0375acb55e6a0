"""Causal attention, and the rotation that tells it where a token stands."""

import math
from typing import Any

from array_api_compat import array_namespace

from ..autodiff import Function
from ..typing import Array, Float


class RotaryEmbedding(Function):
    """Rotate each pair (x[j], x[j + D/2]) at position p by the angle p θ_j, θ_j = base^(-2j/D), j < D/2.

    A product of a rotated query and a rotated key depends on the distance of their positions only
    (Su et al. 2021, "RoFormer", eq. 34). The pairs are halves apart, as in the published Llama family; the
    paper pairs neighbours, which is the same up to the order of the rows of the projection weights.

    Args:
        offset: the position of the first token in x.
        base: larger means slower rotation.
    """

    def forward(self, x: Float[Array, "B H S D"], *, offset: int = 0, base: float = 10000.0) -> Float[Array, "B H S D"]:
        """Rotate. ValueError for an odd D."""
        length, d = x.shape[-2:]
        if d % 2:
            raise ValueError(f"RotaryEmbedding rotates pairs: the head width must be even, got {d}")
        xp = array_namespace(x)
        position = offset + xp.arange(length, dtype=xp.float64)
        angle = position[:, None] * base ** (-2 * xp.arange(d // 2, dtype=xp.float64) / d)
        cos, sin = xp.cos(angle).astype(x.dtype), xp.sin(angle).astype(x.dtype)
        self.save(cos, sin)
        return _rotate(x, cos, sin)

    def backward(self, grad: Float[Array, "B H S D"]) -> Any:
        """dx = g rotated back: the transpose of a rotation is its inverse."""
        cos, sin = self.saved
        return _rotate(grad, cos, -sin)


class CausalAttention(Function):
    """o = softmax(q kᵀ · scale + mask) v for each head, mask = -inf where the key is later than the query.

    (Vaswani et al. 2017, eq. 1.) With L keys and S queries the queries are the last S positions: query i sees
    keys 0 ... L - S + i. With H query heads and Hkv key/value heads, query head h reads key/value head
    h // (H / Hkv) (Ainslie et al. 2023, grouped-query attention).

    The G = H / Hkv query heads that share keys are laid one below the other, [B, Hkv, G·S, D], so that keys
    and values are never copied. The softmax is not divided by its row sums: the narrow output is, and in
    backward the narrow gradient.

    Args:
        scale: None for 1/√D.

    Raises:
        ValueError: shapes that do not fit.
    """

    def forward(
        self,
        q: Float[Array, "B H S D"],
        k: Float[Array, "B Hkv L D"],
        v: Float[Array, "B Hkv L D"],
        *,
        scale: float | None = None,
    ) -> Float[Array, "B H S D"]:
        """Attend."""
        xp = array_namespace(q, k, v)
        length, d = q.shape[-2:]
        num_kv_heads, num_keys = k.shape[1:3]
        if q.shape[1] % num_kv_heads:
            raise ValueError(f"query heads must be a multiple of num_kv_heads={num_kv_heads}, got {q.shape[1]}")
        if num_keys < length:
            raise ValueError(f"there must be at least as many keys as queries, got {num_keys} keys, {length} queries")
        self.scale = 1 / math.sqrt(d) if scale is None else scale
        queries = _fold(q, num_kv_heads)
        e = (queries * self.scale) @ k.swapaxes(-1, -2)
        each_head = e.reshape(*q.shape[:3], num_keys)
        each_head += xp.triu(xp.full((length, num_keys), -math.inf, dtype=e.dtype), k=num_keys - length + 1)
        e -= e.max(axis=-1, keepdims=True)
        xp.exp(e, out=e)
        total = e @ xp.ones((num_keys, 1), dtype=e.dtype)  # row sums, by BLAS
        o = e @ v
        o /= total
        self.save(queries, k, v, e, total, o)
        return o.reshape(q.shape)

    def backward(self, grad: Float[Array, "B H S D"]) -> Any:
        """With p = e / total: dv = pᵀ g; ds = p (g vᵀ - Σ g o); dq = ds k · scale; dk = dsᵀ q · scale."""
        queries, k, v, e, total, o = self.saved
        xp = array_namespace(grad)
        g = _fold(grad, k.shape[1]) / total
        dv = e.swapaxes(-1, -2) @ g
        ds = g @ v.swapaxes(-1, -2)
        ds -= xp.vecdot(g, o)[..., None]
        ds *= e
        dq = (ds @ k) * self.scale
        dk = ds.swapaxes(-1, -2) @ queries * self.scale
        return dq.reshape(grad.shape), dk, dv


def _rotate(x: Float[Array, "B H S D"], cos: Float[Array, "S h"], sin: Float[Array, "S h"]) -> Any:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    y = array_namespace(x).empty(x.shape, dtype=x.dtype)
    y[..., :half] = first * cos - second * sin
    y[..., half:] = second * cos + first * sin
    return y


def _fold(x: Float[Array, "B H S D"], num_kv_heads: int) -> Float[Array, "B Hkv GS D"]:
    """Lay the heads that share keys one below the other."""
    return x.reshape(x.shape[0], num_kv_heads, -1, x.shape[-1])
