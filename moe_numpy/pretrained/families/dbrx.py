"""DBRX (Databricks 2024): a layer's projections and experts in few tensors, LayerNorm without bias."""

from collections.abc import Iterator, Mapping
from typing import Any

from ...models import TransformerConfig
from ...models.transformer_config import Heads, Norm, Sparse
from ...moe import Recipe, RouterConfig
from ...moe.gates import Gate, PNormalize
from ...moe.selection import TopK
from ...nn import AttentionParts
from ..fields import Fields
from ..pieces import Piece, View, transposed
from .decoder import alternating, read_rotary
from .family import Family

_EXPERTS = "ffn.experts.mlp."


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe. The base of the rotation is that of ``attn_config``, where it is published.

    transformers 5.23 does not read it there.
    """
    d_model, num_heads = fields.size("d_model", "hidden_size"), fields.size("n_heads", "num_attention_heads")
    context = fields.integer("max_seq_len", "max_position_embeddings", default=2048)
    attention, network = (
        fields.part(name) or Fields({}, fields.file, name, fields.limits) for name in ("attn_config", "ffn_config")
    )
    fields.skip("emb_pdrop")
    base = attention.number("rope_theta", default=10000.0, above=1)
    clip = attention.number("clip_qkv", default=None, above=0)
    parts = AttentionParts(read_rotary(fields, d_model // num_heads, context, base=base), clip=clip)
    if parts.rotary is not None and parts.rotary.base != base:
        fields.refuse("rope_theta", f"attn_config says {base!r}")
    heads = Heads(num_heads, attention.size("kv_n_heads", default=1), d_model // num_heads, parts)
    activation = network.part("ffn_act_fn")
    if activation is not None:
        activation.expect("name", "silu")
    p = network.number("moe_normalize_expert_weights", default=None, above=0)
    if "moe_normalize_expert_weights" not in network.values:
        p = 1.0
    router = RouterConfig(
        TopK(network.size("moe_top_k", default=1)), gates=() if p is None else (Gate(PNormalize, p=p),)
    )
    network.skip("moe_loss_weight", "moe_jitter_eps", "uniform_expert_assignment", "ffn_act_fn", "hidden_size")
    width, num_experts = network.size("ffn_hidden_size", default=3584), network.size("moe_num_experts", default=4)
    for part in (attention, network):
        part.finish()
    fields.expect("num_key_value_heads", heads.num_kv_heads, default=heads.num_kv_heads)
    fields.expect("tie_word_embeddings", False, default=False)
    num_layers = fields.layers("n_layers", "num_hidden_layers")
    return TransformerConfig(
        fields.size("vocab_size"),
        d_model,
        context,
        layers=alternating(heads, lambda i: True, Sparse(Recipe(router), width, num_experts), None, num_layers),
        norm=Norm("layer", 1e-5, bias=False),
    )


def _projection(layer: str, name: str, arrays: Mapping[str, Any]) -> Iterator[Piece]:
    """``Wqkv`` holds queries above keys above values."""
    stem, kind = name.removesuffix(".weight").rsplit(".", 1)
    widths = {part: arrays[f"{stem}.{part}.weight"].shape[0] for part in ("query", "key", "value")}
    start = sum(list(widths.values())[: list(widths).index(kind)])
    shape = (sum(widths.values()), arrays[name].shape[1])
    yield Piece(f"{layer}norm_attn_norm.attn.Wqkv.weight", name, shape=shape, rows=slice(start, start + widths[kind]))


def _with_rope_theta(values: Mapping[str, Any]) -> dict[str, Any]:
    """The base of the rotation where transformers reads it, too."""
    base = values.get("attn_config", {}).get("rope_theta")
    has_one = base is None or "rope_theta" in values or values.get("rope_parameters")
    return dict(values) if has_one else {**values, "rope_theta": base}


class _OneBelowTheOther:
    """Experts in matrices [E f, d]. ``w2`` is used from the right, h w2: ours is its transpose."""

    def pieces(self, layer: str, prefix: str, arrays: Mapping[str, Any]) -> Iterator[Piece]:
        """Those of one layer."""
        num_experts, d_model, f = arrays[prefix + "down"].shape
        views: dict[str, tuple[str, View]] = {
            "w1": ("gate_up", lambda a: a[:f]),
            "v1": ("gate_up", lambda a: a[f:]),
            "w2": ("down", transposed),
        }
        for published, (ours, view) in views.items():
            for e in range(num_experts):
                rows, shape = slice(e * f, (e + 1) * f), (num_experts * f, d_model)
                yield Piece(layer + _EXPERTS + published, prefix + ours, view, e, shape, rows)


FAMILY = Family(
    transformer,
    {
        "embedding": "transformer.wte",
        "norm": "transformer.norm_f",
        "output": "lm_head",
        "attention_norm": "norm_attn_norm.norm_1",
        "feed_forward_norm": "norm_attn_norm.norm_2",
        "attention.output": "norm_attn_norm.attn.out_proj",
        "feed_forward.router.weight": "ffn.router.layer.weight",
    },
    _OneBelowTheOther(),
    {f"attention.{kind}.weight": _projection for kind in ("query", "key", "value")},
    layer="transformer.blocks.{n}.",
    written=_with_rope_theta,
    balance="ffn_config.moe_loss_weight",
)
