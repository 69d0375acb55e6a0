"""Causal attention, and the rotation that gives it the positions of tokens."""

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function
from ..kernels import kernel
from ..typing import Array, Float


@kernel
def rotate(
    x: Float[Array, "B H S D"], cos: Float[Array, "S half"], sin: Float[Array, "S half"]
) -> Float[Array, "B H S D"]:
    """(a cos - b sin, b cos + a sin) for the first half a and the second half b of each vector."""
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class RotaryEmbedding(Function):
    """Rotate each pair (x[j], x[j + D/2]) at position p by the angle p θ_j, θ_j = base^(-2j/D), j < D/2.

    The inner product of a rotated query and a rotated key depends only on how far apart they are
    (Su et al. 2021, "RoFormer", eq. 34). The pairs are halves apart, as in the published Llama family; the
    paper pairs neighbours, which is the same up to the order of the rows of the projection weights.

    Args:
        offset: the position of the first token in x.
        base: larger means slower rotation.

    Raises:
        ValueError: D is odd.
    """

    def forward(self, x: Float[Array, "B H S D"], *, offset: int = 0, base: float = 10000.0) -> Float[Array, "B H S D"]:
        length, d = x.shape[-2:]
        if d % 2:
            raise ValueError(f"RotaryEmbedding rotates pairs: the head width must be even, got {d}")
        xp = array_namespace(x)
        position = offset + xp.arange(length, dtype=xp.float64)
        angle = position[:, None] * base ** (-2 * xp.arange(d // 2, dtype=xp.float64) / d)
        cos, sin = xp.cos(angle).astype(x.dtype), xp.sin(angle).astype(x.dtype)
        self.save(cos, sin)
        return rotate(x, cos, sin)

    def backward(self, grad: Float[Array, "B H S D"]) -> Any:
        """dx = dy rotated back: the transpose of a rotation is its inverse."""
        cos, sin = self.saved
        return rotate(grad, cos, -sin)


@kernel(wide=(1, 2))
def causal_attention(
    q: Float[Array, "B Hkv GS D"], k: Float[Array, "B Hkv L D"], v: Float[Array, "B Hkv L D"], length: int, scale: float
) -> tuple[Float[Array, "B Hkv GS D"], Float[Array, "B Hkv GS _"], Float[Array, "B Hkv GS 1"]]:
    """o = e v / Σ e and what its gradient needs, e = exp(q kᵀ · scale + mask - row maximum) and its row sums.

    The G query heads that share a key head are stacked, ``length`` = S rows each. Of the L keys, query i of a head
    sees 0 ... L - S + i. A GPU may return no e, [B, Hkv, GS, 0], and log Σ exp(q kᵀ · scale + mask) for the sums.
    """
    num_keys = k.shape[2]
    visible = np.tri(length, num_keys, num_keys - length, dtype=bool)
    scores = (q * scale) @ k.swapaxes(-1, -2)
    scores = np.where(np.tile(visible, (q.shape[2] // max(length, 1), 1)), scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
    total = e.sum(axis=-1, keepdims=True)
    return e @ v / total, e, total


@kernel
def causal_attention_gradient(
    grad: Float[Array, "B Hkv GS D"],
    q: Float[Array, "B Hkv GS D"],
    k: Float[Array, "B Hkv L D"],
    v: Float[Array, "B Hkv L D"],
    o: Float[Array, "B Hkv GS D"],
    e: Float[Array, "B Hkv GS _"],
    total: Float[Array, "B Hkv GS 1"],
    length: int,
    scale: float,
) -> tuple[Float[Array, "B Hkv GS D"], Float[Array, "B Hkv L D"], Float[Array, "B Hkv L D"]]:
    """With p = e / total: dv = pᵀ dy; ds = p (dy vᵀ - Σ dy o); dq = ds k · scale; dk = dsᵀ q · scale."""
    p = e / total
    dv = p.swapaxes(-1, -2) @ grad
    ds = p * (grad @ v.swapaxes(-1, -2) - np.vecdot(grad, o)[..., None])
    return ds @ k * scale, ds.swapaxes(-1, -2) @ q * scale, dv


class CausalAttention(Function):
    """o = softmax(q kᵀ · scale + mask) v for each head, mask = -inf where the key is later than the query.

    (Vaswani et al. 2017, eq. 1.) With L keys and S queries the queries are the last S positions: query i sees
    keys 0 ... L - S + i. With H query heads and Hkv key/value heads, query head h reads key/value head
    h // (H / Hkv) (Ainslie et al. 2023, grouped-query attention).

    The G = H / Hkv query heads that share keys are stacked, [B, Hkv, G·S, D], so that keys and values are never
    copied. The row sums of the softmax divide the narrow output, and in backward the narrow gradient.

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
        if not (q.ndim == k.ndim == v.ndim == 4 and len(q) == len(k) and k.shape[:3] == v.shape[:3]):
            raise ValueError(
                "queries must have shape [B, H, S, D], keys and values [B, Hkv, L, D], "
                f"got {q.shape}, {k.shape} and {v.shape}"
            )
        if q.shape[3] != k.shape[3]:
            raise ValueError(f"queries and keys must have one width, got {q.shape[3]} and {k.shape[3]}")
        length, d = q.shape[-2:]
        num_kv_heads, num_keys = k.shape[1:3]
        if q.shape[1] % max(num_kv_heads, 1):
            raise ValueError(f"query heads must be a multiple of num_kv_heads={num_kv_heads}, got {q.shape[1]}")
        if num_keys < length:
            raise ValueError(f"there must be at least as many keys as queries, got {num_keys} keys, {length} queries")
        self.scale = 1 / math.sqrt(d) if scale is None else scale
        queries = _fold(q, num_kv_heads)
        o, e, total = causal_attention(queries, k, v, length, self.scale)
        self.save(queries, k, v, e, total, o)
        return o.reshape(q.shape)

    def backward(self, grad: Float[Array, "B H S D"]) -> Any:
        """With p = e / total: dv = pᵀ dy; ds = p (dy vᵀ - Σ dy o); dq = ds k · scale; dk = dsᵀ q · scale."""
        queries, k, v, e, total, o = self.saved
        g, length = _fold(grad, k.shape[1]), grad.shape[2]
        dq, dk, dv = causal_attention_gradient(g, queries, k, v, o, e, total, length, self.scale)
        return dq.reshape(grad.shape), dk, dv


def _fold(x: Float[Array, "B H S D"], num_kv_heads: int) -> Float[Array, "B Hkv GS D"]:
    """Stack the heads that share keys."""
    batch, heads, length, width = x.shape
    return x.reshape(batch, num_kv_heads, heads // max(num_kv_heads, 1) * length, width)
