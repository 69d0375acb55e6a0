"""Numbers that the forward pass keeps for the backward pass."""

from dataclasses import dataclass

from ..architecture import Architecture
from ..layers import FeedForward, LatentAttention

#: What the backward pass computes again: nothing; what is cheap; everything but the input of a layer.
RECOMPUTE = ("none", "cheap", "layers")


@dataclass(frozen=True)
class Kept:
    """Numbers that one layer keeps.

    Attributes:
        per_token: where the token lives.
        per_assignment: for each chosen expert, where the expert lives.
    """

    per_token: int
    per_assignment: int


def kept_numbers(architecture: Architecture, sparse: bool, recompute: str) -> Kept:
    """Numbers that a layer keeps for a token, and for each of its k assignments if it is sparse.

        inputs of the two norms           2 d
        their outputs                     2 d                            not if cheap
        queries, keys, values, answers    (2 H + 2 K) h
          before their norms              (H + K) h, if they have any    not if cheap
        or, for latent attention: latents r_q + r + rope
          their norms                     r_q + r                        not if cheap
          queries                         H (nope + rope)                not if cheap and from a latent
          keys and values                 H (nope + rope + v)            not if cheap
          answers                         H v
        inputs of the activation          2 f if gated, else f
        its output                        f                              not if cheap

    The last two lines are those of the dense network or of the shared expert, and of each chosen expert, which keeps
    its row of width d besides. With ``"layers"`` only d is kept. Attention keeps no scores (Dao et al. 2022), and gate
    weights scale what goes into an expert's last matrix, so that its answers are not needed. Not counted: one number
    per head, expert or norm. ``"cheap"`` is what DeepSeek-V3 computes again (2024, sections 3.2.3 and 3.3.3).

    Raises:
        ValueError: recompute is unknown.
    """
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute must be one of {', '.join(RECOMPUTE)}, got {recompute!r}")
    a, everything = architecture, recompute == "none"
    if recompute == "layers":
        return Kept(a.d_model, 0)

    def network(of: FeedForward | None) -> int:
        return 0 if of is None else of.d_ff * (1 + of.gated + everything)

    outside = (2 + 2 * everything) * a.d_model + _attention(a, everything)
    if not sparse:
        return Kept(outside + network(a.feed_forward), 0)
    return Kept(outside + network(a.shared_expert), a.d_model + network(a.expert))


def _attention(a: Architecture, everything: bool) -> int:
    attention = a.attention
    if isinstance(attention, LatentAttention):
        heads, rank = attention.num_heads, attention.query_rank or 0
        query, value = heads * (attention.d_nope + attention.d_rope), heads * attention.d_value
        kept = rank + attention.kv_rank + attention.d_rope + value
        if everything or attention.query_rank is None:
            kept += query
        return kept + everything * (rank + attention.kv_rank + query + value)
    both = (attention.num_heads + attention.num_kv_heads) * attention.d_head
    return 2 * both + (everything and attention.qk_norm is not None) * both
