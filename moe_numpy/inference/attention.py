"""Attention for rows of several sequences, each with the keys and values of its own past."""

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .. import ops
from ..kernels import kernel
from ..nn import Attention, LatentAttention
from ..nn.rotary import Rotary
from ..ops.attention import rotate
from ..typing import Array, Float, Int
from .maps import Map, matrix_of, norm_of
from .rows import Rows
from .sequence import Kept


@kernel
def attend(
    q: Float[Array, "n H D"],
    keys: Float[Array, "L Hkv D"],
    values: Float[Array, "L Hkv Dv"],
    first: Int[Array, " n"],
    scale: float,
    sinks: Float[Array, " H"] | None,
) -> Float[Array, "n H Dv"]:
    """o = softmax(q kᵀ · scale) v for the last n of L positions; query i sees keys first[i] ... L - n + i.

    Head h reads key head h // (H / Hkv). A sink is one more score, without a value. Each row is computed by itself.
    """
    xp, (n, num_heads, _), (num_keys, num_kv_heads, width) = array_namespace(q), q.shape, values.shape
    o = xp.empty((n, num_heads, width), dtype=q.dtype)
    for i in range(n):
        seen = slice(int(first[i]), num_keys - n + i + 1)
        for h in range(num_heads):
            head = h // (num_heads // num_kv_heads)
            scores = keys[seen, head] @ q[i, h] * scale
            top = scores.max() if sinks is None else max(scores.max(), sinks[h])
            e = xp.exp(scores - top)
            total = e.sum() if sinks is None else e.sum() + xp.exp(sinks[h] - top)
            o[i, h] = e @ values[seen, head] / total
    return o


def turned(x: Float[np.ndarray, "N H D"], rotary: Rotary | None, rows: Rows) -> Float[np.ndarray, "N H D"]:
    """x rotated, each row by its own position."""
    if rotary is None:
        return x
    width = rotary.require(x.shape[2])
    cos, sin = rows.turn(rotary, x.shape[2])
    part = x[:, :, :width]
    if rotary.pairing == "neighbours":
        part = np.concatenate([part[..., ::2], part[..., 1::2]], axis=-1)
    y = rotate(np.ascontiguousarray(part.swapaxes(0, 1))[None], cos, sin)[0].swapaxes(0, 1)
    if rotary.pairing == "neighbours":
        y = np.stack([y[..., : width // 2], y[..., width // 2 :]], axis=-1).reshape(y.shape)
    return y if width == x.shape[2] else np.concatenate([y, x[..., width:]], axis=-1)


class AttentionStep:
    """:class:`moe_numpy.nn.Attention` from arrays to arrays."""

    def __init__(self, layer: Attention, format: str | None = None):
        self.parts, self.d_head, self.num_kv_heads = layer.parts, layer.d_head, layer.num_kv_heads
        maps = layer.query, layer.key, layer.value, layer.output
        self.query, self.key, self.value, self.output = (Map.of(part, format) for part in maps)
        self.norms = [None if w is None else np.asarray(w.data, np.float32) for w in (layer.query_norm, layer.key_norm)]
        self.sinks = None if layer.sinks is None else np.asarray(layer.sinks.data, np.float32)

    def new(self) -> tuple[Kept, Kept]:
        """What a sequence keeps: keys and values."""
        p, width = self.parts, self.num_kv_heads * self.d_head
        windows = [w for w in (p.window, p.chunk) if w is not None]
        window = min(windows) if windows else None
        return Kept(width, window), Kept(width, window)

    def __call__(self, x: Float[np.ndarray, "N d"], rows: Rows, layer: int) -> Float[np.ndarray, "N d"]:
        p = self.parts
        q = self._heads(self.query(x), self.norms[0], rows)
        k = self._heads(self.key(x), self.norms[1], rows)
        v = self._clipped(self.value(x))
        if p.temperature is not None:
            q = q * p.temperature.factors(rows.positions)[:, None, None].astype(np.float32)
        scale = 1 / math.sqrt(self.d_head) if p.scale is None else p.scale
        y = np.empty((len(x), q.shape[1] * self.d_head), np.float32)
        for sequence, mine in rows.parts:
            kept_keys, kept_values = sequence.layers[layer]
            keys, values = kept_keys.append(k[mine].reshape(mine.stop - mine.start, -1)), kept_values.append(v[mine])
            heads = len(keys), self.num_kv_heads, self.d_head
            first = self._first(rows.positions[mine]) - kept_keys.start
            o = attend(q[mine], keys.reshape(heads), values.reshape(heads), first, scale, self.sinks)
            y[mine] = o.reshape(len(o), -1)
        return self.output(y)

    def _first(self, position: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The first key that each query sees."""
        p, first = self.parts, np.zeros_like(position)
        if p.window is not None:
            first = np.maximum(first, position - p.window + 1)
        return first if p.chunk is None else np.maximum(first, position // p.chunk * p.chunk)

    def _heads(self, x: Float[np.ndarray, "N HD"], weight: Any, rows: Rows) -> Float[np.ndarray, "N H D"]:
        """Heads, normalised, clipped and rotated."""
        norm = self.parts.norm
        if norm is not None and norm.over == "width":
            x = self._normed(x, weight)
        x = self._clipped(x).reshape(len(x), -1, self.d_head)
        if norm is not None and norm.over == "head" and not norm.after_rotation:
            x = self._normed(x, weight)
        x = turned(x, self.parts.rotary, rows)
        return self._normed(x, weight) if norm is not None and norm.after_rotation else x

    def _normed(self, x: Any, weight: Any) -> Any:
        weight = np.ones(x.shape[-1], np.float32) if weight is None else weight
        return ops.RMSNorm.compute(x, weight, eps=self.parts.norm.eps)  # type: ignore[union-attr]

    def _clipped(self, x: Any) -> Any:
        return x if self.parts.clip is None else ops.Clip.compute(x, limit=self.parts.clip)


class LatentAttentionStep:
    """:class:`moe_numpy.nn.LatentAttention`, which keeps the latents of tokens, not their keys and values.

    With W_ukv = [W_uk; W_uv] of each head, q · (W_uk c) = (W_ukᵀ q) · c and Σ p (W_uv c) = W_uv (Σ p c): queries meet
    latents, and one vector [c; k_rope] is key and value of all heads (DeepSeek-V2 2024, section 2.1.2).
    """

    def __init__(self, layer: LatentAttention, format: str | None = None):
        self.parts, self.num_heads = layer.parts, layer.num_heads
        p = layer.parts
        self.low = p.query_rank is not None
        if self.low:
            self.query_down, self.query_norm = Map.of(layer.query_down, format), norm_of(layer.query_norm)
        self.query = Map.of(layer.query_up if self.low else layer.query, format)
        self.kv_down, self.output = (Map.of(part, format) for part in (layer.kv_down, layer.output))
        self.kv_norm = norm_of(layer.kv_norm)
        up = np.asarray(layer.kv_up.weight.data, np.float32).reshape(self.num_heads, p.d_nope + p.d_value, p.kv_rank)
        self.to_latent = [Map(matrix_of(np.ascontiguousarray(w[: p.d_nope].T))) for w in up]
        self.from_latent = [Map(matrix_of(w[p.d_nope :])) for w in up]

    def new(self) -> tuple[Kept]:
        """What a sequence keeps: [c; k_rope]."""
        return (Kept(self.parts.kv_rank + self.parts.d_rope),)

    def __call__(self, x: Float[np.ndarray, "N d"], rows: Rows, layer: int) -> Float[np.ndarray, "N d"]:
        p = self.parts
        low = self.query_norm(self.query_down(x)) if self.low else x
        q = self.query(low).reshape(len(x), self.num_heads, p.d_nope + p.d_rope)
        down = self.kv_down(x)
        k_rope = turned(down[:, None, p.kv_rank :], p.rotary, rows)[:, 0]
        latents = np.concatenate([self.kv_norm(np.ascontiguousarray(down[:, : p.kv_rank])), k_rope], axis=1)
        q_rope = turned(q[:, :, p.d_nope :], p.rotary, rows)
        wide = [to(np.ascontiguousarray(q[:, h, : p.d_nope])) for h, to in enumerate(self.to_latent)]
        q = np.concatenate([np.stack(wide, axis=1), q_rope], axis=2)
        scale = 1 / math.sqrt(p.d_nope + p.d_rope) if p.scale is None else p.scale
        y = np.empty((len(x), self.num_heads, p.d_value), np.float32)
        for sequence, mine in rows.parts:
            (kept,) = sequence.layers[layer]
            keys = kept.append(latents[mine])[:, None]
            first = np.zeros(mine.stop - mine.start, np.int64)
            o = attend(q[mine], keys, keys[:, :, : p.kv_rank], first, scale, None)
            for h, back in enumerate(self.from_latent):
                y[mine, h] = back(np.ascontiguousarray(o[:, h]))
        return self.output(y.reshape(len(x), -1))


def attention_step(
    layer: Attention | LatentAttention, format: str | None = None
) -> AttentionStep | LatentAttentionStep:
    """The step of a layer, its matrices in a format or as they are."""
    return AttentionStep(layer, format) if isinstance(layer, Attention) else LatentAttentionStep(layer, format)
