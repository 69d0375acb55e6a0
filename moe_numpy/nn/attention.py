"""Causal self-attention from parts, in which published models differ: rotation, norms, windows, sinks."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..ops import CausalAttention, Clip, Reshape, RMSNorm, Transpose
from ..typing import Array, Bool, Float, Int, Random
from .cache import KeyValueCache
from .linear import Linear
from .module import Module, Parameter, constant
from .padding import padding_of
from .rotary import Rotary
from .sizes import require_sizes


@dataclass(frozen=True)
class QueryKeyNorm:
    """An RMSNorm of queries and keys (Henry et al. 2020, query-key normalisation; with RMSNorm in OLMoE, Qwen3).

    Attributes:
        over: ``"head"``, each head alone and one weight for all; or ``"width"``, all heads of a token together.
        after_rotation: it comes after the rotation; ``over`` is then ``"head"``.
        weighted: whether it has a weight.
        eps: ε.
    """

    over: str = "head"
    after_rotation: bool = False
    weighted: bool = True
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.over not in ("head", "width") or (self.over == "width" and self.after_rotation):
            raise ValueError(f"over must be head, or before the rotation width, got {self.over!r}")

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """Normalise along the last axis; None is a weight of ones."""
        if weight is None:
            weight = Tensor(array_namespace(x.data).ones(x.shape[-1], dtype=x.dtype))
        normed: Tensor = RMSNorm.apply(x, weight, eps=self.eps)
        return normed


@dataclass(frozen=True)
class Temperature:
    """q · (1 + strength ln(1 + ⌊(p + 1) / interval⌋)) at position p: sharper scores far from the start (Llama 4)."""

    strength: float
    interval: float

    def factors(self, position: Int[Array, " S"]) -> Float[Array, " S"]:
        """One factor for each position."""
        xp = array_namespace(position)
        return 1 + self.strength * xp.log1p(xp.floor((position + 1) / self.interval))


@dataclass(frozen=True)
class AttentionParts:
    """What attention is made of, besides its sizes.

    Attributes:
        rotary: the rotation of queries and keys; None for none.
        bias: whether queries, keys and values have a bias.
        output_bias: whether the output has one.
        norm: of queries and keys, or None.
        clip: entries of queries, keys and values are cut to [-clip, clip], after a norm and before the rotation.
        scale: of the scores; None for 1/√d_head.
        window: see :class:`moe_numpy.ops.CausalAttention`.
        chunk: likewise.
        sinks: whether each head has a logit without a value.
        temperature: of the queries by position, or None.
    """

    rotary: Rotary | None = field(default_factory=Rotary)
    bias: bool = False
    output_bias: bool = False
    norm: QueryKeyNorm | None = None
    clip: float | None = None
    scale: float | None = None
    window: int | None = None
    chunk: int | None = None
    sinks: bool = False
    temperature: Temperature | None = None


class Attention(Module):
    """q, k, v = heads of x W_qᵀ, x W_kᵀ, x W_vᵀ; y = CausalAttention(rotate(q), rotate(k), v) W_oᵀ.

    The three projections are separate: their names and shapes are those of published checkpoints, and splitting the
    result of one matrix multiplication for all three would cost what it saves.

    Args:
        d_model: length of the input and output vectors.
        num_heads: query heads, H.
        num_kv_heads: key/value heads, a divisor of ``num_heads``; each serves H / num_kv_heads query heads.
        d_head: length of a head, even; None for d_model / num_heads.
        parts: biases, norms, the rotation and what a query sees.
        output_std: standard deviation of the initial W_o; None for 1/√(H d_head).
        rng: draws the weights.
        dtype: type of the parameters.

    Raises:
        ValueError: the numbers of heads and the lengths do not divide as above.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int,
        d_head: int | None = None,
        parts: AttentionParts = AttentionParts(),
        output_std: float | None = None,
        *,
        rng: Random,
        dtype: Any = np.float32,
    ):
        require_sizes(d_model=d_model, num_heads=num_heads, num_kv_heads=num_kv_heads)
        if num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads={num_heads}, got {num_kv_heads}")
        if d_head is None:
            if d_model % num_heads:
                raise ValueError(f"num_heads must divide d_model={d_model}, got {num_heads}; or give d_head")
            d_head = d_model // num_heads
        require_sizes(d_head=d_head)
        self.d_head, self.num_kv_heads, self.parts = d_head, num_kv_heads, parts
        if parts.rotary is not None:
            parts.rotary.require(d_head)
        widths, biased = (num_heads * d_head, num_kv_heads * d_head), {"bias": parts.bias, "rng": rng, "dtype": dtype}
        self.query = Linear(d_model, widths[0], **biased)
        self.key = Linear(d_model, widths[1], **biased)
        self.value = Linear(d_model, widths[1], **biased)
        self.output = Linear(widths[0], d_model, bias=parts.output_bias, std=output_std, rng=rng, dtype=dtype)
        self.query_norm = self.key_norm = self.sinks = None
        if parts.norm is not None and parts.norm.weighted:
            lengths = widths if parts.norm.over == "width" else (d_head, d_head)
            self.query_norm, self.key_norm = (constant(rng, n, 1, dtype) for n in lengths)
        if parts.sinks:
            self.sinks = constant(rng, num_heads, 0, dtype)

    def forward(
        self, x: Float[Tensor, "B S d"], cache: KeyValueCache | None = None, mask: Bool[Array, "B S"] | None = None
    ) -> Float[Tensor, "B S d"]:
        """Let every token attend to itself and to the tokens before it.

        Args:
            x: the tokens; with a cache, those that follow the tokens in it.
            cache: takes the keys and values of these tokens too. For ``no_grad()`` only: it records no graph.
            mask: True for real tokens, which do not see the others and do not count them as positions. Those get zeros.

        Raises:
            RuntimeError: a cache, outside ``no_grad()``.
            ValueError: x is not a batch of sequences, or the cache is full or comes with a mask.
        """
        return attend_to_earlier(self, x, cache, mask)

    def queries_keys_values(self, x: Float[Tensor, "B S d"], offset: int) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, H, S, Dh], k and v [B, Hkv, S, Dh]: all that is done before tokens meet."""
        q = self._turned(self.query(x), self.query_norm, offset)
        k = self._turned(self.key(x), self.key_norm, offset)
        if self.parts.temperature is not None:
            positions = offset + array_namespace(q.data).arange(x.shape[1])
            q = q * Tensor(self.parts.temperature.factors(positions)[:, None].astype(q.dtype))
        return q, k, heads(self._clipped(self.value(x)), self.d_head)

    def settings(self) -> dict[str, Any]:
        """Those of :class:`CausalAttention`."""
        return {"scale": self.parts.scale, "window": self.parts.window, "chunk": self.parts.chunk}

    def new_cache(self, batch_size: int, capacity: int, dtype: Any, xp: Any) -> KeyValueCache:
        """An empty cache for this many sequences and tokens."""
        return KeyValueCache((batch_size, self.num_kv_heads, capacity, self.d_head), dtype, xp)

    def _turned(self, x: Float[Tensor, "B S HDh"], weight: Parameter | None, offset: int) -> Float[Tensor, "B H S Dh"]:
        """Heads, normalised, clipped and rotated."""
        norm, rotary = self.parts.norm, self.parts.rotary
        if norm is not None and norm.over == "width":
            x = norm.apply(x, weight)
        x = heads(self._clipped(x), self.d_head)
        if norm is not None and norm.over == "head" and not norm.after_rotation:
            x = norm.apply(x, weight)
        if rotary is not None:
            x = rotary.apply(x, offset)
        return norm.apply(x, weight) if norm is not None and norm.after_rotation else x

    def _clipped(self, x: Tensor) -> Tensor:
        return x if self.parts.clip is None else Clip.apply(x, limit=self.parts.clip)


def attend_to_earlier(layer: Any, x: Tensor, cache: KeyValueCache | None, mask: Any) -> Float[Tensor, "B S d"]:
    """What every attention layer does with its queries, keys and values; see :meth:`Attention.forward`."""
    if len(getattr(x, "shape", ())) != 3:
        raise ValueError(f"x must be a Tensor of shape [B, S, d], got {getattr(x, 'shape', type(x).__name__)}")
    padding = padding_of(mask, x.shape[:2])
    if padding is not None:
        if cache is not None:
            raise ValueError("attention with a cache takes no mask: a cache holds real tokens only")
        return padding.from_front(layer(padding.to_front(x)))  # no token sees what is behind it
    q, k, v = layer.queries_keys_values(x, 0 if cache is None else cache.length)
    if cache is not None:
        if k.requires_grad:
            raise RuntimeError("attention with a cache has no gradient; run it inside no_grad()")
        k, v = cache.append(k.data, v.data)
    sinks = () if layer.sinks is None else (layer.sinks,)
    y = Transpose.apply(CausalAttention.apply(q, k, v, *sinks, **layer.settings()), axes=(0, 2, 1, 3))
    return layer.output(Reshape.apply(y, shape=(*x.shape[:2], y.shape[2] * y.shape[3])))


def heads(x: Float[Tensor, "B S HDh"], d_head: int) -> Float[Tensor, "B H S Dh"]:
    """The vectors of a token cut into heads."""
    cut = Reshape.apply(x, shape=(*x.shape[:2], x.shape[2] // d_head, d_head))
    return Transpose.apply(cut, axes=(0, 2, 1, 3))
