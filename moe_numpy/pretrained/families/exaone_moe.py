"""K-EXAONE (LG AI Research 2025): DeepSeek-V3's router; layers with windows rotate, those that see all keys do not."""

from dataclasses import replace

from ...models import TransformerConfig
from ...models.transformer_config import Dense, Norm, Sparse
from ...moe import Recipe
from ...nn import AttentionParts
from ...nn.attention import QueryKeyNorm
from ..fields import Fields
from .decoder import LLAMA, QUERY_KEY_NORMS, alternating, heads, mlp, read_rotary, read_sizes, sparse_layers
from .deepseek import SHARED, sigmoid_router
from .family import Family
from .qwen_moe import layer_types


def _types(fields: Fields, n: int) -> list[str]:
    """``layer_types``, or all keys in every ``sliding_window_pattern``-th layer and windows in the others."""
    pattern = fields.take(int | str, "sliding_window_pattern", default=4)
    types = fields.take(list[str], "layer_types", default=None)
    if types is not None:
        return layer_types(fields, types, n)
    if isinstance(pattern, str) or pattern < 1:
        fields.refuse("sliding_window_pattern", "without layer_types it must be a number of at least 1")
    return ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(n)]


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-5, num_kv_heads=32)
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=10000.0)
    window = fields.integer("sliding_window", default=4096)
    if fields.values.get("sliding_window", window) is None:
        fields.refuse("sliding_window", "a number is needed: only layers with windows rotate")
    windowed = AttentionParts(rotary, norm=QueryKeyNorm(eps=sizes.eps), window=window)
    whole = replace(windowed, window=None, rotary=None)
    types = _types(fields, sizes.num_layers)
    attention = [heads(sizes, windowed if kind == "sliding_attention" else whole) for kind in types]
    router = sigmoid_router(fields, top_k=8, groups=1, top_groups=1, normalize=True, scale=2.5)
    num_shared = fields.size("num_shared_experts", default=1)
    experts = Sparse(
        Recipe(router, shared_experts=num_shared),
        fields.size("moe_intermediate_size", default=1024),
        fields.size("num_experts", default=64),
    )
    sparse = sparse_layers(fields, sizes.num_layers, first=1)
    if fields.take(list[bool], "is_moe_layer", default=sparse) != sparse:
        fields.refuse("is_moe_layer", f"the other settings make it {sparse}")
    fields.skip("num_nextn_predict_layers", "first_last_k_dense_replace")
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(
            attention, sparse.__getitem__, experts, Dense(fields.integer("intermediate_size")), sizes.num_layers
        ),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


FAMILY = Family(
    transformer,
    {
        **LLAMA,
        **QUERY_KEY_NORMS,
        **mlp(),
        **SHARED,
        "feed_forward.router.weight": "mlp.gate.weight",
        "feed_forward.router.balancer_state": "mlp.e_score_correction_bias",
    },
    further=r"mtp\.",
    balance=None,
)
