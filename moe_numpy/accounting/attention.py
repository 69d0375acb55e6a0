"""The shapes of attention: grouped-query (multi-head and multi-query are its ends), multi-head latent."""

from dataclasses import dataclass

from .entries import Entries
from .ranges import require_at_least


@dataclass(frozen=True)
class GroupedQueryAttention:
    """H query heads over K key and value heads of width h (Ainslie et al. 2023).

    Attributes:
        num_heads: H.
        num_kv_heads: K, a divisor of H. K = H is multi-head attention, K = 1 multi-query attention.
        d_head: h; H h need not be d.
        qkv_bias: biases on queries, keys and values.
        output_bias: a bias on the output.
        qk_norm: scales of an RMSNorm on queries and keys: ``"head"`` of width h shared by all heads (Qwen3),
            ``"full"`` of widths H h and K h (OLMoE), None for none or for a norm without scales (Llama 4).
        sinks: one learned logit for each head in its softmax (gpt-oss).
    """

    num_heads: int
    num_kv_heads: int
    d_head: int
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: str | None = None
    sinks: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, self, "num_heads", "num_kv_heads", "d_head")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads={self.num_heads}, got {self.num_kv_heads}")
        if self.qk_norm not in (None, "head", "full"):
            raise ValueError(f"qk_norm must be 'head', 'full' or None, got {self.qk_norm!r}")

    def entries(self, d_model: int) -> Entries:
        """W_q and W_o: 2 d H h. W_k and W_v: 2 d K h. Biases: H h + 2 K h and d. Sinks: H."""
        queries, keys = self.num_heads * self.d_head, self.num_kv_heads * self.d_head
        return Entries(
            multiplied=2 * d_model * (queries + keys),
            other=self.qkv_bias * (queries + 2 * keys) + self.output_bias * d_model + self.sinks * self.num_heads,
        )

    def norms(self) -> Entries:
        """Scales on queries and keys: 2 h, or H h + K h."""
        widths = {None: 0, "head": 2, "full": self.num_heads + self.num_kv_heads}
        return Entries(other=widths[self.qk_norm] * self.d_head)

    @property
    def score_multiply_adds(self) -> int:
        """For each key that a token attends to: q·k and p v in each head, 2 H h."""
        return 2 * self.num_heads * self.d_head

    @property
    def cached_numbers(self) -> int:
        """What one layer keeps of one token for later ones: its keys and values, 2 K h."""
        return 2 * self.num_kv_heads * self.d_head


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2 2024, section 2.1 and appendix C).

    c_q = W_dq x, q = W_uq norm(c_q); [c; k_rope] = W_dkv x, [k; v] = W_ukv norm(c); y = W_o heads.

    Attributes:
        num_heads: H.
        query_rank: width of c_q; None for one matrix from x to q.
        kv_rank: width of c, from which keys and values are made.
        d_nope: width of the part of a query and key without position.
        d_rope: width of the rotated part; its key is shared by all heads.
        d_value: width of a value.
    """

    num_heads: int
    query_rank: int | None
    kv_rank: int
    d_nope: int
    d_rope: int
    d_value: int

    def __post_init__(self) -> None:
        require_at_least(1, self, "num_heads", "kv_rank", "d_nope", "d_rope", "d_value")
        if self.query_rank is not None:
            require_at_least(1, self, "query_rank")

    def entries(self, d_model: int) -> Entries:
        """W_dq, W_uq: r_q (d + H (nope + rope)). W_dkv: d (r + rope). W_ukv: r H (nope + v). W_o: H v d."""
        queries = self.num_heads * (self.d_nope + self.d_rope)
        query = d_model * queries if self.query_rank is None else self.query_rank * (d_model + queries)
        down = d_model * (self.kv_rank + self.d_rope)
        up = self.kv_rank * self.num_heads * (self.d_nope + self.d_value)
        return Entries(multiplied=query + down + up + self.num_heads * self.d_value * d_model)

    def norms(self) -> Entries:
        """Scales on the two latents: r_q + r."""
        return Entries(other=(self.query_rank or 0) + self.kv_rank)

    @property
    def score_multiply_adds(self) -> int:
        """For each key that a token attends to, keys and values made explicit: H (nope + rope + v)."""
        return self.num_heads * (self.d_nope + self.d_rope + self.d_value)

    @property
    def cached_numbers(self) -> int:
        """What one layer keeps of one token for later ones: the latent and the rotated key, r + rope."""
        return self.kv_rank + self.d_rope
