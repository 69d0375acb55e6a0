"""Multi-head latent attention: keys and values computed from one narrow vector per token."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..ops import BroadcastTo, Concatenate
from ..typing import Array, Bool, Float, Random
from .attention import attend_to_earlier, heads
from .cache import KeyValueCache
from .linear import Linear
from .module import Module
from .norms import RMSNorm
from .rotary import Rotary


@dataclass(frozen=True)
class LatentParts:
    """The sizes of latent attention, and what it is made of.

    Attributes:
        query_rank: width of the latent of queries; None if one matrix maps x to q.
        kv_rank: width r of the latent of keys and values.
        d_nope: width of the part of a query and key without position.
        d_rope: width of the rotated part; all heads share its key.
        d_value: width of a value.
        rotary: the rotation of that part.
        scale: of the scores; None for 1/√(d_nope + d_rope).
        bias: whether the two maps to the latents and the output have biases.
        eps: ε of the norms of the latents.
    """

    query_rank: int | None
    kv_rank: int
    d_nope: int
    d_rope: int
    d_value: int
    rotary: Rotary = field(default_factory=lambda: Rotary(pairing="neighbours"))
    scale: float | None = None
    bias: bool = False
    eps: float = 1e-6


class LatentAttention(Module):
    """c_q = norm(W_dq x), q = W_uq c_q; [c; k_rope] = W_dkv x, [k; v] = W_ukv norm(c); y = W_o heads.

    (DeepSeek-V2 2024, section 2.1 and appendix C.) q and k are [nope; rope] per head, rope rotated; the k_rope of a
    token serves all heads.

    Args:
        d_model: length of the input and output vectors.
        num_heads: H.
        parts: the other sizes.
        rng: draws the weights.
        dtype: type of the parameters.
    """

    sinks = None

    def __init__(self, d_model: int, num_heads: int, parts: LatentParts, *, rng: Random, dtype: Any = np.float32):
        self.num_heads, self.parts = num_heads, parts
        parts.rotary.require(parts.d_rope)
        settings, biased = {"rng": rng, "dtype": dtype}, {"bias": parts.bias, "rng": rng, "dtype": dtype}
        d_query = parts.d_nope + parts.d_rope
        if parts.query_rank is None:
            self.query = Linear(d_model, num_heads * d_query, **settings)
        else:
            self.query_down = Linear(d_model, parts.query_rank, **biased)
            self.query_norm = RMSNorm(parts.query_rank, parts.eps, **settings)
            self.query_up = Linear(parts.query_rank, num_heads * d_query, **settings)
        self.kv_down = Linear(d_model, parts.kv_rank + parts.d_rope, **biased)
        self.kv_norm = RMSNorm(parts.kv_rank, parts.eps, **settings)
        self.kv_up = Linear(parts.kv_rank, num_heads * (parts.d_nope + parts.d_value), **settings)
        self.output = Linear(num_heads * parts.d_value, d_model, **biased)

    def forward(
        self, x: Float[Tensor, "B S d"], cache: KeyValueCache | None = None, mask: Bool[Array, "B S"] | None = None
    ) -> Float[Tensor, "B S d"]:
        """As :meth:`moe_numpy.nn.Attention.forward`."""
        return attend_to_earlier(self, x, cache, mask)

    def queries_keys_values(self, x: Float[Tensor, "B S d"], offset: int) -> tuple[Tensor, Tensor, Tensor]:
        """q and k [B, H, S, nope + rope], v [B, H, S, v]."""
        p = self.parts
        q = self.query(x) if p.query_rank is None else self.query_up(self.query_norm(self.query_down(x)))
        q = heads(q, p.d_nope + p.d_rope)
        down = self.kv_down(x)
        kv = heads(self.kv_up(self.kv_norm(down[..., : p.kv_rank])), p.d_nope + p.d_value)
        k_rope = p.rotary.apply(heads(down[..., p.kv_rank :], p.d_rope), offset)
        k_rope = BroadcastTo.apply(k_rope, shape=(*kv.shape[:3], p.d_rope))
        q_rope = p.rotary.apply(q[..., p.d_nope :], offset)
        q = Concatenate.apply(q[..., : p.d_nope], q_rope, axis=-1)
        return q, Concatenate.apply(kv[..., : p.d_nope], k_rope, axis=-1), kv[..., p.d_nope :]

    def settings(self) -> dict[str, Any]:
        """Those of :class:`moe_numpy.ops.CausalAttention`."""
        return {"scale": self.parts.scale}

    def new_cache(self, batch_size: int, capacity: int, dtype: Any, xp: Any) -> KeyValueCache:
        """An empty cache for this many sequences and tokens. It holds keys and values, not the latents."""
        p = self.parts
        return KeyValueCache((batch_size, self.num_heads, capacity, p.d_nope + p.d_rope), dtype, xp, p.d_value)
