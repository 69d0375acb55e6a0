"""Causal attention, and the rotation that gives it the positions of tokens."""

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function
from ..devices import constant_beside
from ..kernels import kernel, reshaped
from ..typing import Array, Float, Int


@kernel
def rotate(
    x: Float[Array, "B H S Dh"], cos: Float[Array, "S half"], sin: Float[Array, "S half"]
) -> Float[Array, "B H S Dh"]:
    """(a cos - b sin, b cos + a sin) for the first half a and the second half b of each vector."""
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


PAIRINGS = ("halves", "neighbours")


class RotaryEmbedding(Function):
    """Rotate each pair (x[j], x[j + Dh/2]) at position p by the angle p θ_j, θ_j = base^(-2j/Dh), j < Dh/2.

    The inner product of a rotated query and a rotated key depends only on how far apart they are
    (Su et al. 2021, "RoFormer", eq. 34). The pairs are halves apart, as in most published models; the paper pairs
    neighbours, (x[2j], x[2j + 1]), which is the same up to the order of the rows of the projection weights.

    Args:
        offset: the position of the first token in x.
        base: larger means slower rotation.
        frequencies: the θ_j, in place of those of ``base``; where there are fewer than Dh/2, the rest of x stays.
        factor: y is that many times the rotated x (YaRN's attention factor).
        pairing: ``"halves"`` or ``"neighbours"``.

    Raises:
        ValueError: an odd number of entries to rotate, more frequencies than pairs, or another pairing.
    """

    def forward(
        self,
        x: Float[Array, "B H S Dh"],
        *,
        offset: int = 0,
        base: float = 10000.0,
        frequencies: Float[np.ndarray, " half"] | None = None,
        factor: float = 1.0,
        pairing: str = "halves",
    ) -> Float[Array, "B H S Dh"]:
        length, d = x.shape[-2:]
        if frequencies is None:
            if d % 2:
                raise ValueError(f"RotaryEmbedding rotates pairs: the head width must be even, got {d}")
            frequencies = base ** (-2 * np.arange(d // 2) / d)
        if 2 * len(frequencies) > d:
            raise ValueError(
                f"RotaryEmbedding: {len(frequencies)} frequencies need a head width of twice that, got {d}"
            )
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing must be {' or '.join(PAIRINGS)}, got {pairing!r}")
        xp = array_namespace(x)
        angle = (offset + xp.arange(length, dtype=xp.float64))[:, None] * constant_beside(x, frequencies)
        cos, sin = (factor * xp.cos(angle)).astype(x.dtype), (factor * xp.sin(angle)).astype(x.dtype)
        self.pairing = pairing
        self.save(cos, sin)
        return _turn(x, cos, sin, pairing)

    def backward(self, grad: Float[Array, "B H S Dh"]) -> Any:
        """dx = dy rotated back: the transpose of a rotation is its inverse."""
        cos, sin = self.saved
        return _turn(grad, cos, -sin, self.pairing)


def _turn(
    x: Float[Array, "B H S Dh"], cos: Float[Array, "S half"], sin: Float[Array, "S half"], pairing: str
) -> Float[Array, "B H S Dh"]:
    """Rotate the first entries, as many as there are angles for; the rest stays."""
    xp, width = array_namespace(x), 2 * cos.shape[1]
    turned = x[..., :width]
    if pairing == "neighbours":
        halves = rotate(xp.concatenate([turned[..., ::2], turned[..., 1::2]], axis=-1), cos, sin)
        y = xp.stack([halves[..., : width // 2], halves[..., width // 2 :]], axis=-1).reshape(turned.shape)
    else:
        y = rotate(turned, cos, sin)
    return y if width == x.shape[-1] else xp.concatenate([y, x[..., width:]], axis=-1)


@kernel(wide=(1, 2))
def causal_attention(
    q: Float[Array, "B Hkv GS Dh"],
    k: Float[Array, "B Hkv keys Dh"],
    v: Float[Array, "B Hkv keys Dv"],
    length: int,
    scale: float,
    first: Int[Array, " S"] | None = None,
    sinks: Float[Array, "Hkv GS"] | None = None,
) -> tuple[Float[Array, "B Hkv GS Dv"], Float[Array, "B Hkv GS _"], Float[Array, "B Hkv GS 1"]]:
    """o = e v / Σ e and what its gradient needs, e = exp(q kᵀ · scale + mask - row maximum) and its row sums.

    The query heads that share a key head are stacked, ``length`` = S rows each. Query i of a head sees the keys
    ``first[i]`` ... num_keys - S + i; None stands for zeros. A sink is one more score of a row, the first column of e,
    without a value. A GPU may return no e, [B, Hkv, GS, 0], and log Σ exp(q kᵀ · scale + mask) for the sums.
    """
    xp = array_namespace(q)
    num_keys, groups = k.shape[2], q.shape[2] // max(length, 1)
    key, query = xp.arange(num_keys), xp.arange(length)[:, None]
    visible = key <= num_keys - length + query
    if first is not None:
        visible &= key >= first[:, None]
    scores = (q * scale) @ k.swapaxes(-1, -2)
    scores = xp.where(xp.tile(visible, (groups, 1)), scores, -xp.inf)
    if sinks is not None:
        scores = xp.concatenate([xp.broadcast_to(sinks[..., None], (*q.shape[:3], 1)), scores], axis=-1)
    e = xp.exp(scores - scores.max(axis=-1, keepdims=True)) if num_keys else scores
    total = e.sum(axis=-1, keepdims=True)
    return e[..., e.shape[-1] - num_keys :] @ v / total, e, total


@kernel(wide=(3,))
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
    """With p = e / total: dv = pᵀ dy; ds = p (dy vᵀ - Σ dy o); dq = ds k · scale; dk = dsᵀ q · scale.

    The last result is ds of the sinks, - p Σ dy o, or None without sinks.
    """
    xp, num_keys = array_namespace(q), k.shape[2]
    p, inner = e / total, xp.vecdot(grad, o)[..., None]
    p, of_sinks = p[..., p.shape[-1] - num_keys :], p[..., : p.shape[-1] - num_keys]
    dv = p.swapaxes(-1, -2) @ grad
    ds = p * (grad @ v.swapaxes(-1, -2) - inner)
    dsinks = (-of_sinks * inner)[..., 0] if of_sinks.shape[-1] else None
    return ds @ k * scale, ds.swapaxes(-1, -2) @ q * scale, dv, dsinks


class CausalAttention(Function):
    """o = softmax(q kᵀ · scale + mask) v for each head, mask = -inf where the key is later than the query.

    (Vaswani et al. 2017, eq. 1.) With more keys than queries the queries are the last S positions: query i sees
    keys 0 ... num_keys - S + i. With H query heads and Hkv key/value heads, query head h reads key/value head
    h // (H / Hkv) (Ainslie et al. 2023, grouped-query attention).

    The H / Hkv query heads that share keys are stacked, [B, Hkv, H / Hkv · S, Dh], so that keys and values are never
    copied. The row sums of the softmax divide the narrow output, and in backward the narrow gradient.

    Args:
        sinks: None, or one more logit per head, in the denominator of its softmax only (gpt-oss, 2025).
        scale: None for 1/√Dh.
        window: a query sees the last ``window`` keys only, its own included (Beltagy et al. 2020, section 3.1).
        chunk: a query sees only keys of its own chunk of that many positions (Llama 4).

    Raises:
        ValueError: shapes that do not fit, or a window or chunk below 1.
    """

    def forward(
        self,
        q: Float[Array, "B H S Dh"],
        k: Float[Array, "B Hkv keys Dh"],
        v: Float[Array, "B Hkv keys Dv"],
        sinks: Float[Array, " H"] | None = None,
        *,
        scale: float | None = None,
        window: int | None = None,
        chunk: int | None = None,
    ) -> Float[Array, "B H S Dv"]:
        if not (q.ndim == k.ndim == v.ndim == 4 and len(q) == len(k) and k.shape[:3] == v.shape[:3]):
            raise ValueError(
                "queries must have shape [B, H, S, Dh], keys and values [B, Hkv, keys, Dh], "
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
        if sinks is not None and sinks.shape != q.shape[1:2]:
            raise ValueError(f"sinks must be one per query head, shape {q.shape[1:2]}, got {sinks.shape}")
        self.scale = 1 / math.sqrt(d) if scale is None else scale
        queries = _fold(q, num_kv_heads)
        first = _first_key(array_namespace(q), length, num_keys, window, chunk)
        rows = None if sinks is None else sinks.reshape(num_kv_heads, -1).repeat(length, axis=1)
        o, e, total = causal_attention(queries, k, v, length, self.scale, first, rows)
        self.num_inputs = 3 if sinks is None else 4
        self.save(queries, k, v, e, total, o)
        return o.reshape(*q.shape[:3], v.shape[3])

    def backward(self, grad: Float[Array, "B H S Dv"]) -> Any:
        """With p = e / total: dv = pᵀ dy; ds = p (dy vᵀ - Σ dy o); dq = ds k · scale; dk = dsᵀ q · scale."""
        queries, k, v, e, total, o = self.saved
        batch, num_heads, length = grad.shape[:3]
        g = _fold(grad, k.shape[1])
        dq, dk, dv, dsinks = causal_attention_gradient(g, queries, k, v, o, e, total, length, self.scale)
        if dsinks is not None:
            dsinks = dsinks.reshape(batch, num_heads, length).sum(axis=(0, 2)).astype(grad.dtype, copy=False)
        return (dq.reshape(batch, num_heads, length, k.shape[3]), dk, dv, dsinks)[: self.num_inputs]


def _first_key(xp: Any, length: int, num_keys: int, window: int | None, chunk: int | None) -> Int[Array, " S"] | None:
    """The first key that each query sees; None if each sees the first of all."""
    for name, value in (("window", window), ("chunk", chunk)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if num_keys <= min(window or num_keys, chunk or num_keys):
        return None
    position = xp.arange(num_keys - length, num_keys)
    first = xp.zeros_like(position)
    if window is not None:
        first = xp.maximum(first, position - window + 1)
    if chunk is not None:
        first = xp.maximum(first, position // chunk * chunk)
    return first


def _fold(x: Float[Array, "B H S Dh"], num_kv_heads: int) -> Float[Array, "B Hkv GS Dh"]:
    """Stack the heads that share keys."""
    batch, heads, length, width = x.shape
    return reshaped(x, (batch, num_kv_heads, heads // max(num_kv_heads, 1) * length, width))
