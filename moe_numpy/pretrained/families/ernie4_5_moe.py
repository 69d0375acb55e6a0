"""ERNIE 4.5 (Baidu 2025): softmax chosen by p + b, divided by at least a least sum."""

from collections.abc import Iterator, Mapping
from typing import Any

from ...models import TransformerConfig
from ...models.transformer_config import Dense, Norm, Sparse
from ...moe import Recipe, RouterConfig
from ...moe.balancers import LossFreeBias
from ...moe.gates import DivideByAtLeast, Gate
from ...moe.selection import TopK
from ...nn import AttentionParts
from ..fields import Fields
from ..pieces import Piece
from .decoder import LLAMA, alternating, heads, mlp, read_rotary, read_sizes
from .deepseek import SHARED
from .family import Family


def transformer(fields: Fields) -> TransformerConfig:
    """The model that the settings describe. Layer i is sparse from start to end where (i + 1) % interval == 0."""
    sizes = read_sizes(fields, eps=1e-5, num_kv_heads=4)
    bias = fields.flag("use_bias")
    rotary = read_rotary(fields, sizes.d_head, sizes.context, base=500000.0, pairing="neighbours")
    parts = AttentionParts(rotary, bias=bias, output_bias=bias)
    fields.expect("moe_gate_act", "softmax", default="softmax")
    fields.expect("moe_use_aux_free", True, default=True)
    fields.skip("moe_capacity", "moe_gate", "moe_statics", "moe_layer_freq")
    router = RouterConfig(
        TopK(fields.size("moe_k", "num_experts_per_tok", default=6)),
        gates=(Gate(DivideByAtLeast, least=fields.number("moe_norm_min", default=1e-12, above=0)),),
        balancer=LossFreeBias(0.001),
    )
    d_ff = fields.size("moe_intermediate_size", default=1536)
    num_shared = fields.size("moe_num_shared_experts", default=2, least=0)
    recipe = Recipe(router, shared_experts=num_shared, shared_bias=bias and num_shared > 0)
    experts = Sparse(recipe, d_ff, fields.size("moe_num_experts", default=64))
    dense = Dense(fields.integer("intermediate_size"), bias)
    start = fields.integer("moe_layer_start_index", default=1, least=0)
    end = fields.take(int, "moe_layer_end_index", default=-1)
    last = sizes.num_layers - 1 if end == -1 else end
    interval = fields.integer("moe_layer_interval", default=1)
    tied = fields.flag("tie_word_embeddings", default=True)
    if tied and bias:
        fields.refuse("use_bias", "an output matrix that is the embedding has no bias here")
    sparse = lambda i: start <= i <= last and (i + 1) % interval == 0  # noqa: E731
    return TransformerConfig(
        *sizes.outside,
        layers=alternating(heads(sizes, parts), sparse, experts, dense, sizes.num_layers),
        norm=Norm(eps=sizes.eps),
        tied=tied,
        output_bias=bias and not tied,
    )


def _correction(layer: str, name: str, arrays: Mapping[str, Any]) -> Iterator[Piece]:
    """The bias that moves the choice, [1, E] as published."""
    shape = (1, len(arrays[name]))
    yield Piece(f"{layer}mlp.moe_statics.e_score_correction_bias", name, shape=shape)


FAMILY = Family(
    transformer,
    {**LLAMA, "feed_forward.router.weight": "mlp.gate.weight", **mlp(), **SHARED},
    special={"feed_forward.router.balancer_state": _correction},
    further=r"(model\.)?mtp",
)
