"""The parts of a layer, counted: grouped-query and latent attention, feed-forward networks."""

from dataclasses import dataclass


def require_at_least(least: int, of: object, *names: str) -> None:
    """Raise ValueError for the first of the named attributes that is below ``least``."""
    for name in names:
        value = getattr(of, name)
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class Entries:
    """The parameters of a part of a model, split by what they cost a token.

    Attributes:
        multiplied: entries of weight matrices: one multiply-add per token each.
        other: biases, norm scales, attention sinks and lookup tables: no multiply-adds.
    """

    multiplied: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """multiplied + other."""
        return self.multiplied + self.other

    def __add__(self, more: "Entries") -> "Entries":
        return Entries(self.multiplied + more.multiplied, self.other + more.other)

    def __mul__(self, times: int) -> "Entries":
        return Entries(self.multiplied * times, self.other * times)


@dataclass(frozen=True)
class GroupedQueryAttention:
    """H query heads over K key and value heads of width h (Ainslie et al. 2023).

    Attributes:
        num_heads: H.
        num_kv_heads: K, a divisor of H. K = H is multi-head attention, K = 1 multi-query attention.
        d_head: h; H h may differ from d.
        qkv_bias: biases on queries, keys and values.
        output_bias: a bias on the output.
        qk_norm: scales of an RMSNorm on queries and keys: ``"head"`` of width h shared by all heads (Qwen3),
            ``"full"`` of widths H h and K h (OLMoE), None for no norm or one without scales (Llama 4).
        sinks: one learned logit per head in its softmax (gpt-oss).
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
        """Multiply-adds per attended key: q·k and p v in each head, 2 H h."""
        return 2 * self.num_heads * self.d_head

    @property
    def cached_numbers(self) -> int:
        """Numbers that one layer caches per token: keys and values, 2 K h."""
        return 2 * self.num_kv_heads * self.d_head


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2 2024, section 2.1 and appendix C).

    c_q = W_dq x, q = W_uq norm(c_q); [c; k_rope] = W_dkv x, [k; v] = W_ukv norm(c); y = W_o heads.

    Attributes:
        num_heads: H.
        query_rank: r_q, width of c_q; None if one matrix maps x to q.
        kv_rank: r, width of c, from which keys and values are computed.
        d_nope: width of the part of a query and key without position.
        d_rope: width of the rotated part; all heads share its key.
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
        """Multiply-adds per attended key, with keys and values expanded: H (nope + rope + v)."""
        return self.num_heads * (self.d_nope + self.d_rope + self.d_value)

    @property
    def cached_numbers(self) -> int:
        """Numbers that one layer caches per token: the latent and the rotated key, r + rope."""
        return self.kv_rank + self.d_rope


@dataclass(frozen=True)
class FeedForward:
    """A network d → f → d: a dense layer, one expert, or the shared experts of a layer.

    Attributes:
        d_ff: hidden width f.
        gated: three matrices, D (act(G x) ⊙ U x) (Shazeer 2020, section 2), or two, W₂ act(W₁ x).
        bias: each matrix has one.
    """

    d_ff: int
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, self, "d_ff")

    def entries(self, d_model: int) -> Entries:
        """(2 + gated) d f; with biases, f per matrix into the hidden layer and d for the last."""
        inward = 2 if self.gated else 1
        return Entries(
            multiplied=(inward + 1) * d_model * self.d_ff,
            other=inward * self.d_ff + d_model if self.bias else 0,
        )
