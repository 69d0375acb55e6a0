"""Granite 3 MoE (IBM 2024): multipliers at four places, with or without a shared expert."""

from collections.abc import Iterator, Mapping
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


def transformer(fields: Fields, *, shared: bool) -> TransformerConfig:
    """The model that the settings describe."""
    sizes = read_sizes(fields, eps=1e-6)
    bias = fields.flag("attention_bias")
    parts = AttentionParts(
        read_rotary(fields, sizes.d_head, sizes.context, base=10000.0),
        bias=bias,
        output_bias=bias,
        scale=fields.factor("attention_multiplier", default=1.0),
    )
    top_k = fields.size("num_experts_per_tok", default=2)
    router = RouterConfig(TopK(top_k), scores=None, gates=(Gate(SelectedSoftmax),))
    width = fields.size("shared_intermediate_size", default=0, least=0) if shared else 0
    recipe = Recipe(router, shared_experts=1 if width else 0, shared_d_ff=width or None)
    experts = Sparse(recipe, fields.size("intermediate_size"), fields.size("num_local_experts", default=8))
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(heads(sizes, parts), lambda i: True, experts, None, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=fields.flag("tie_word_embeddings"),
        embedding_multiplier=fields.factor("embedding_multiplier", default=1.0),
        residual_multiplier=fields.factor("residual_multiplier", default=1.0),
        logit_divisor=fields.factor("logits_scaling", default=1.0),
    )


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
