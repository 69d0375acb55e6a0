"""Attention for rows of several sequences, each with the keys and values of its own past."""

import math
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .. import ops
from ..kernels import kernel
from ..kernels.places import BEGIN, END, KEYS, NEW_KEY, NEW_VALUE, PLACES, VALUES
from ..nn import Attention, LatentAttention
from ..nn.rotary import Rotary
from ..ops.attention import rotate
from ..typing import Array, Float, Int
from .maps import Map, Norm, matrix_of
from .program import Program
from .rows import Rows
from .sequence import Kept


@kernel
def attend(
    q: Float[Array, "n H Dh"],
    keys: Float[Array, "keys Hkv Dh"],
    values: Float[Array, "keys Hkv Dv"],
    first: Int[Array, " n"],
    scale: float,
    sinks: Float[Array, " H"] | None,
) -> Float[Array, "n H Dv"]:
    """Attention with a cache: the last n of num_keys positions look back at the keys and values of all.

        s_j = (q_ih · k_jh') · scale                            j = first[i] ... num_keys - n + i
        o_ih = Σ_j e^{s_j} v_jh' / (Σ_j e^{s_j} + e^{sink_h})   h' = h // (H / Hkv)

    In decoding n is 1. Query i is position num_keys - n + i, and sees itself. A window begins at first[i]; what lies
    outside it may be anything. A sink is one more score, without a value; its term is missing where ``sinks`` is None.
    The largest score is taken off before exp, so that nothing overflows. Each row is computed by itself, in the type of
    q.
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


def turned(x: Float[np.ndarray, "N H Dh"], rotary: Rotary | None, rows: Rows) -> Float[np.ndarray, "N H Dh"]:
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

    def add_to(self, program: Program, x: Float[Array, "N d"], layer: int) -> Float[Array, "N d"]:
        """The step in a program, as the one of this number."""
        p, n = self.parts, program.num_rows
        q, k, v = (
            part.add_to(program, x, name)
            for part, name in ((self.query, "query"), (self.key, "key"), (self.value, "value"))
        )
        q = self._heads(program, q, self.norms[0], "query")
        k = self._heads(program, k, self.norms[1], "key").reshape(n, -1)
        v = self._clipped(program, v)
        if p.temperature is not None:
            factors = p.temperature.factors
            program.call(lambda: np.copyto(q, q * factors(program.now.positions)[:, None, None].astype(np.float32)))
        places = program.room(f"places {layer}", n, PLACES, dtype=np.int64)
        program.at_start.append(partial(self._place, places, layer))
        program.keep(k, places, NEW_KEY, lambda: self._keep(program.now, layer, 0, k))
        program.keep(v, places, NEW_VALUE, lambda: self._keep(program.now, layer, 1, v))
        scale = 1 / math.sqrt(self.d_head) if p.scale is None else p.scale
        y = program.room("attended", *q.shape)
        program.attend(
            q, self.num_kv_heads, places, self.sinks, scale, y,
            lambda: self._attend(program.now, layer, q, scale, y),
        )  # fmt: skip
        return self.output.add_to(program, y.reshape(n, -1), "attention")

    def _place(self, places: Int[Array, "N 6"], layer: int, now: Rows) -> None:
        """Make room for each row's key and value, and say where they and those that it sees are."""
        for sequence, mine in now.parts:
            kept, num = sequence.layers[layer], mine.stop - mine.start
            for each in kept:
                each.extend(num)
            old, line, start = len(kept[0].rows) - num, 4 * self.num_kv_heads * self.d_head, kept[0].start
            addresses = kept[0].address, kept[1].address
            if num == 1:
                to, position = line * old, start + old
                first = self._first(position) - start
                places[mine.start] = (addresses[0] + to, addresses[1] + to, *addresses, first, old + 1)
                continue
            new = old + np.arange(num)
            mine_places = places[mine]
            mine_places[:, NEW_KEY], mine_places[:, NEW_VALUE] = addresses[0] + line * new, addresses[1] + line * new
            mine_places[:, KEYS], mine_places[:, VALUES] = addresses
            mine_places[:, BEGIN], mine_places[:, END] = self._first(start + new) - start, new + 1

    def _keep(self, now: Rows, layer: int, which: int, x: Float[Array, "N width"]) -> None:
        for sequence, mine in now.parts:
            sequence.layers[layer][which].rows[mine.start - mine.stop :] = x[mine]

    def _attend(self, now: Rows, layer: int, q: Any, scale: float, y: Any) -> None:
        for sequence, mine in now.parts:
            keys, values = (kept.rows.reshape(-1, self.num_kv_heads, self.d_head) for kept in sequence.layers[layer])
            first = self._first(now.positions[mine]) - sequence.layers[layer][0].start
            y[mine] = attend(q[mine], keys, values, first, scale, self.sinks)

    def _first(self, position: Any) -> Any:
        """The first key that each query sees."""
        p, first = self.parts, position * 0
        if p.window is not None:
            first = np.maximum(first, position - p.window + 1)
        return first if p.chunk is None else np.maximum(first, position // p.chunk * p.chunk)

    def _heads(self, program: Program, x: Float[Array, "N HDh"], weight: Any, name: str) -> Float[Array, "N H Dh"]:
        """Heads, normalised, clipped and rotated."""
        norm, rotary, n = self.parts.norm, self.parts.rotary, program.num_rows
        if norm is not None and norm.over == "width":
            x = self._normed(program, x, weight, name)
        heads = self._clipped(program, x).reshape(n, -1, self.d_head)
        if norm is not None and norm.over == "head" and not norm.after_rotation:
            heads = self._normed(program, heads, weight, name)
        if rotary is not None:
            heads = add_turned(program, heads, rotary, f"turned {name}")
        return self._normed(program, heads, weight, name) if norm is not None and norm.after_rotation else heads

    def _normed(self, program: Program, x: Any, weight: Any, name: str) -> Any:
        width, eps = x.shape[-1], self.parts.norm.eps  # type: ignore[union-attr]
        weight = np.ones(width, np.float32) if weight is None else weight
        y = program.room(f"normed {name}", *x.shape)
        program.rms_norm(x.reshape(-1, width), weight, eps, y.reshape(-1, width))
        return y

    def _clipped(self, program: Program, x: Any) -> Any:
        limit = self.parts.clip
        if limit is not None:
            program.call(lambda: np.copyto(x, ops.Clip.compute(x, limit=limit)))
        return x


def add_turned(program: Program, x: Float[Array, "N H Dh"], rotary: Rotary, name: str) -> Float[Array, "N H Dh"]:
    """:func:`turned` in a program."""
    width, y = rotary.require(x.shape[2]), program.room(name, *x.shape)
    if width < x.shape[2] or rotary.pairing == "neighbours":
        program.call(lambda: np.copyto(y, turned(x, rotary, program.now)))
        return y
    cos, sin = program.shared(("turns", rotary, width), lambda: _turns(program, rotary, width))
    program.rotate(x, cos, sin, y)
    return y


def _turns(program: Program, rotary: Rotary, width: int) -> tuple[Any, Any]:
    cos, sin = np.empty((2, program.num_rows, width // 2), np.float32)
    program.at_start.append(lambda now: now.turn_into(rotary, width, cos, sin))
    return cos, sin


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
            self.query_down, self.query_norm = Map.of(layer.query_down, format), Norm(layer.query_norm)
        self.query = Map.of(layer.query_up if self.low else layer.query, format)
        self.kv_down, self.output = (Map.of(part, format) for part in (layer.kv_down, layer.output))
        self.kv_norm = Norm(layer.kv_norm)
        up = np.asarray(layer.kv_up.weight.data, np.float32).reshape(self.num_heads, p.d_nope + p.d_value, p.kv_rank)
        self.to_latent = [Map(matrix_of(np.ascontiguousarray(w[: p.d_nope].T))) for w in up]
        self.from_latent = [Map(matrix_of(w[p.d_nope :])) for w in up]

    def new(self) -> tuple[Kept]:
        """What a sequence keeps: [c; k_rope]."""
        return (Kept(self.parts.kv_rank + self.parts.d_rope),)

    def add_to(self, program: Program, x: Float[Array, "N d"], layer: int) -> Float[Array, "N d"]:
        """The step in a program, as the one of this number."""
        y = program.room("attention", len(x), self.output.weight.shape[0])
        program.call(lambda: np.copyto(y, self(x, program.now, layer)))
        return y

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
