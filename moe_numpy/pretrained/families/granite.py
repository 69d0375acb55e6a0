"""Granite 3 MoE (IBM 2024): multipliers at four places, with or without a shared expert; later windows and sinks."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ...models import TransformerConfig
from ...models.transformer_config import Norm, Sparse
from ...moe import Recipe, RouterConfig
from ...moe.gates import Gate, SelectedSoftmax
from ...moe.selection import TopK
from ...nn import AttentionParts
from ..fields import Fields
from ..pieces import Piece, Together
from .decoder import LLAMA, alternating, heads, read_rotary, read_sizes
from .family import Family
from .qwen_moe import layer_types


def transformer(fields: Fields, *, shared: bool, windows: bool = False) -> TransformerConfig:
    """The model that the settings describe, of a family with or without a shared expert, windows and sinks."""
    sizes = read_sizes(fields, eps=1e-6)
    bias = fields.flag("attention_bias")
    parts = AttentionParts(
        read_rotary(fields, sizes.d_head, sizes.context, base=10000.0),
        bias=bias,
        output_bias=bias,
        scale=fields.factor("attention_multiplier", default=1.0),
    )
    each = _with_windows(fields, parts, sizes.num_layers) if windows else [parts] * sizes.num_layers
    attention = [heads(sizes, parts) for parts in each]
    top_k = fields.size("num_experts_per_tok", default=2)
    router = RouterConfig(TopK(top_k), scores=None, gates=(Gate(SelectedSoftmax),))
    width = fields.size("shared_intermediate_size", default=0, least=0) if shared else 0
    recipe = Recipe(router, shared_experts=1 if width else 0, shared_d_ff=width or None)
    experts = Sparse(recipe, fields.size("intermediate_size"), fields.size("num_local_experts", default=8))
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(attention, lambda i: True, experts, None, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
        embedding_multiplier=fields.factor("embedding_multiplier", default=1.0),
        residual_multiplier=fields.factor("residual_multiplier", default=1.0),
        logit_divisor=fields.factor("logits_scaling", default=1.0),
    )


def _with_windows(fields: Fields, parts: AttentionParts, n: int) -> list[AttentionParts]:
    """Those of each layer: sinks, windows in three of four, and its own base of the rotation, 0 for none."""
    window, types = fields.integer("sliding_window", default=128), fields.take(list[str], "layer_types", default=None)
    kinds = ["sliding_attention" if i % 4 else "full_attention" for i in range(n)]
    kinds = kinds if types is None else layer_types(fields, types, n)
    assert parts.rotary is not None
    bases = fields.take(list[float], "layer_rope_theta", default=[parts.rotary.base] * n)
    if len(bases) != n or any(base and not base > 1 for base in bases):
        fields.refuse("layer_rope_theta", f"expected 0 or a number above 1 for each of {n} layers")
    return [
        replace(
            parts,
            rotary=replace(parts.rotary, base=base) if base else None,
            window=window if kind == "sliding_attention" else None,
            sinks=True,
        )
        for kind, base in zip(kinds, bases, strict=True)
    ]


def _half(first: bool, layer: str, name: str, arrays: Mapping[str, Any]) -> Iterator[Piece]:
    """``shared_mlp.input_linear`` holds the gate above the up projection."""
    width, d_model = arrays[name].shape
    rows = slice(0, width) if first else slice(width, 2 * width)
    yield Piece(f"{layer}shared_mlp.input_linear.weight", name, shape=(2 * width, d_model), rows=rows)


def _family(shared: bool) -> Family:
    return Family(
        partial(transformer, shared=shared),
        {
            **LLAMA,
            "feed_forward.router.weight": "block_sparse_moe.router.layer.weight",
            "feed_forward.shared.down": "shared_mlp.output_linear",
        },
        Together(
            {"gate_up": "block_sparse_moe.input_linear.weight", "down": "block_sparse_moe.output_linear.weight"},
            transposed=False,
        ),
        {
            "feed_forward.shared.gate.weight": partial(_half, True),
            "feed_forward.shared.up.weight": partial(_half, False),
        },
    )


PLAIN, SHARED = _family(False), _family(True)
WITH_WINDOWS = replace(
    SHARED,
    transformer=partial(transformer, shared=True, windows=True),
    names={
        **SHARED.names,
        "attention.sinks": "self_attn.sinks",
        "feed_forward.router.weight": "block_sparse_moe.router.weight",
    },
    experts=Together(
        {"gate_up": "block_sparse_moe.experts.gate_up_proj", "down": "block_sparse_moe.experts.down_proj"},
        transposed=False,
    ),
)
