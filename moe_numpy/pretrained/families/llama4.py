"""Llama 4 (Meta 2025), the language model: chunks with rotation, now and then a layer without, gates on the input."""

from dataclasses import replace

from ...models import TransformerConfig
from ...models.transformer_config import Dense, Norm, Sparse
from ...moe import recipes
from ...nn import AttentionParts
from ...nn.attention import QueryKeyNorm, Temperature
from ..fields import Fields
from ..pieces import Together
from .decoder import LLAMA, alternating, heads, mlp, read_rotary, read_sizes
from .family import Family
from .qwen_moe import layer_types
from .text_config import language_model, settings_alone


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-5, num_kv_heads=8, d_head=128)
    n, bias = sizes.num_layers, fields.flag("attention_bias")
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=500000.0, pairing="neighbours")
    interval = fields.integer("no_rope_layer_interval", default=4)
    rotates = fields.take(list[int], "no_rope_layers", default=None) or [int((i + 1) % interval > 0) for i in range(n)]
    if len(rotates) != n or set(rotates) - {0, 1}:
        fields.refuse("no_rope_layers", f"expected 0 or 1 for each of {n} layers")
    types = fields.take(list[str], "layer_types", default=None)
    if types is None:
        types = ["chunked_attention" if rotate else "full_attention" for rotate in rotates]
    chunk = fields.integer("attention_chunk_size", default=8192)
    norm = QueryKeyNorm(after_rotation=True, weighted=False, eps=sizes.eps)
    norm_or_none = norm if fields.flag("use_qk_norm", default=True) else None
    strength, every = (
        fields.number("attn_scale", default=0.1, least=0),
        fields.number("floor_scale", default=8192.0, above=0),
    )
    tuned = fields.take(bool | int, "attn_temperature_tuning", default=True)
    temperature = Temperature(strength, every) if tuned else None
    parts = AttentionParts(rotary, bias=bias, output_bias=bias, norm=norm_or_none)
    without = replace(parts, rotary=None, norm=None, temperature=temperature)
    kinds = layer_types(fields, types, n, "chunked_attention")
    attention = [
        heads(sizes, replace(parts if rotate else without, chunk=chunk if kind == "chunked_attention" else None))
        for rotate, kind in zip(rotates, kinds, strict=True)
    ]
    step = fields.integer("interleave_moe_layer_step", default=1)
    sparse = fields.take(list[int], "moe_layers", default=list(range(step - 1, n, step)))
    fields.skip("router_jitter_noise")
    recipe = recipes.llama4(top_k=fields.size("num_experts_per_tok", default=1), balance=0)
    experts = Sparse(recipe, fields.size("intermediate_size"), fields.size("num_local_experts", default=16))
    dense = Dense(fields.integer("intermediate_size_mlp", default=16384))
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(attention, lambda i: i in sparse, experts, dense, n),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


TEXT = Family(
    transformer,
    {
        **LLAMA,
        **mlp(theirs="feed_forward"),
        **mlp("feed_forward.shared", "feed_forward.shared_expert"),
        "feed_forward.router.weight": "feed_forward.router.weight",
    },
    Together({"gate_up": "feed_forward.experts.gate_up_proj", "down": "feed_forward.experts.down_proj"}),
    balance=None,
)
WITH_IMAGES = replace(
    TEXT,
    transformer=language_model(transformer, "boi_token_index", "eoi_token_index", "image_token_index"),
    prefix="language_model.",
    written=settings_alone("llama4_text", "Llama4ForCausalLM"),
    further=r"vision_model\.|multi_modal_projector\.",
)
