"""Causal self-attention with rotary positions and grouped key/value heads."""

from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..ops import CausalAttention, Reshape, RotaryEmbedding, Transpose
from ..typing import Array, Bool, Float
from .cache import KeyValueCache
from .linear import Linear
from .module import Module
from .padding import padding_of


class Attention(Module):
    """q, k, v = heads of x W_qᵀ, x W_kᵀ, x W_vᵀ; y = CausalAttention(rotate(q), rotate(k), v) W_oᵀ.

    The three projections are separate: their names and shapes are those of published checkpoints, and splitting the
    result of one matrix multiplication for all three would cost what it saves.

    Args:
        d_model: length of the input and output vectors.
        num_heads: query heads, H.
        num_kv_heads: key/value heads, a divisor of ``num_heads``; each serves H / num_kv_heads query heads.
        d_head: length of a head, even; None for d_model / num_heads.
        rope_base: see :class:`moe_numpy.ops.RotaryEmbedding`.
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
        rope_base: float = 10000.0,
        output_std: float | None = None,
        *,
        rng: np.random.Generator,
        dtype: Any = np.float32,
    ):
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads={num_heads}, got {num_kv_heads}")
        if d_head is None:
            if d_model % num_heads:
                raise ValueError(f"num_heads must divide d_model={d_model}, got {num_heads}; or give d_head")
            d_head = d_model // num_heads
        if d_head % 2:
            raise ValueError(f"d_head must be even, because rotary embedding turns pairs, got {d_head}")
        self.d_head = d_head
        self.rope_base = rope_base
        self.query = Linear(d_model, num_heads * d_head, rng=rng, dtype=dtype)
        self.key = Linear(d_model, num_kv_heads * d_head, rng=rng, dtype=dtype)
        self.value = Linear(d_model, num_kv_heads * d_head, rng=rng, dtype=dtype)
        self.output = Linear(num_heads * d_head, d_model, std=output_std, rng=rng, dtype=dtype)

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
        if len(getattr(x, "shape", ())) != 3:
            raise ValueError(f"x must be a Tensor of shape [B, S, d], got {getattr(x, 'shape', type(x).__name__)}")
        padding = padding_of(mask, x.shape[:2])
        if padding is not None:
            if cache is not None:
                raise ValueError("attention with a cache takes no mask: a cache holds real tokens only")
            return padding.from_front(self(padding.to_front(x)))  # no token sees what is behind it
        offset = 0 if cache is None else cache.length
        q = self._rotate(self._heads(self.query(x)), offset)
        k = self._rotate(self._heads(self.key(x)), offset)
        v = self._heads(self.value(x))
        if cache is not None:
            if k.requires_grad:
                raise RuntimeError("attention with a cache has no gradient; run it inside no_grad()")
            k, v = cache.append(k.data, v.data)
        y = Transpose.apply(CausalAttention.apply(q, k, v), axes=(0, 2, 1, 3))
        return self.output(Reshape.apply(y, shape=(*x.shape[:2], y.shape[2] * self.d_head)))

    def _heads(self, x: Float[Tensor, "B S HD"]) -> Float[Tensor, "B H S D"]:
        heads = Reshape.apply(x, shape=(*x.shape[:2], x.shape[2] // self.d_head, self.d_head))
        return Transpose.apply(heads, axes=(0, 2, 1, 3))

    def _rotate(self, x: Float[Tensor, "B H S D"], offset: int) -> Float[Tensor, "B H S D"]:
        return RotaryEmbedding.apply(x, offset=offset, base=self.rope_base)
