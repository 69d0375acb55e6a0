"""gpt-oss (OpenAI 2025): windows in turn, sinks, biases, clamped experts, YaRN."""

from ...models import TransformerConfig
from ...models.transformer_config import Norm, Sparse
from ...moe import Recipe, RouterConfig
from ...moe.gates import Gate, SelectedSoftmax
from ...moe.selection import TopK
from ...nn import AttentionParts
from ..fields import Fields
from ..pieces import Together
from .decoder import LLAMA, alternating, heads, read_rotary, read_sizes
from .family import Family
from .qwen_moe import layer_types

_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe."""
    fields.skip("initial_context_length")
    sizes = read_sizes(fields, eps=1e-5, num_kv_heads=8, d_head=64, swiglu=False)
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=150000.0, default=_ROPE)
    window = fields.integer("sliding_window", default=128)
    types = fields.take(list[str], "layer_types", default=None)
    if types is None:
        types = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(sizes.num_layers)]
    bias = fields.flag("attention_bias", default=True)
    attention = [
        heads(
            sizes,
            AttentionParts(
                rotary,
                bias=bias,
                output_bias=bias,
                sinks=True,
                window=window if kind == "sliding_attention" else None,
            ),
        )
        for kind in layer_types(fields, types, sizes.num_layers)
    ]
    top_k = fields.size("num_experts_per_tok", "experts_per_token", default=4)
    router = RouterConfig(TopK(top_k), scores=None, gates=(Gate(SelectedSoftmax),), bias=True)
    limits = {
        "alpha": fields.factor("swiglu_alpha", default=1.702),
        "limit": fields.number("swiglu_limit", default=7.0, above=0),
    }
    recipe = Recipe(router, experts="gpt_oss", expert_settings=limits)
    experts = Sparse(recipe, fields.size("intermediate_size"), fields.size("num_local_experts", default=128))
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(attention, lambda i: True, experts, None, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
    )


FAMILY = Family(
    transformer,
    {**LLAMA, "attention.sinks": "self_attn.sinks", "feed_forward.router": "mlp.router"},
    Together(
        {
            "gate_up": "mlp.experts.gate_up_proj",
            "gate_up_bias": "mlp.experts.gate_up_proj_bias",
            "down": "mlp.experts.down_proj",
            "down_bias": "mlp.experts.down_proj_bias",
        }
    ),
)
