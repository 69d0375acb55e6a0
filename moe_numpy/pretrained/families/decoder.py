"""What most families have in common: the names of Llama's tensors, sizes, and the dialects of rotary settings."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...models import ModelConfig
from ...models.transformer_config import Dense, Heads, Layer, Sparse
from ...nn import AttentionParts, Rotary
from ...nn.rotary import Linear, Llama3, YaRN
from ..fields import Fields

OUTSIDE = {"embedding": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
NORMS = {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
ATTENTION = {
    f"attention.{ours}": f"self_attn.{theirs}_proj"
    for ours, theirs in zip(("query", "key", "value", "output"), "qkvo", strict=True)
}
QUERY_KEY_NORMS = {"attention.query_norm": "self_attn.q_norm.weight", "attention.key_norm": "self_attn.k_norm.weight"}
LATENTS = {
    "attention.query": "self_attn.q_proj",
    "attention.query_down": "self_attn.q_a_proj",
    "attention.query_norm": "self_attn.q_a_layernorm",
    "attention.query_up": "self_attn.q_b_proj",
    "attention.kv_down": "self_attn.kv_a_proj_with_mqa",
    "attention.kv_norm": "self_attn.kv_a_layernorm",
    "attention.kv_up": "self_attn.kv_b_proj",
    "attention.output": "self_attn.o_proj",
}
ROUTER = {
    "feed_forward.router.weight": "mlp.gate.weight",
    "feed_forward.router.balancer_state": "mlp.gate.e_score_correction_bias",
}
_MATRICES = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
LLAMA = {**OUTSIDE, **NORMS, **ATTENTION}


def mlp(ours: str = "feed_forward", theirs: str = "mlp") -> dict[str, str]:
    """The names of a dense network."""
    return {f"{ours}.{name}": f"{theirs}.{published}" for name, published in _MATRICES.items()}


@dataclass(frozen=True)
class Sizes:
    """What every model has."""

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    d_head: int
    context: int
    eps: float

    @property
    def outside(self) -> tuple[int, int, int]:
        """Those of a TransformerConfig: vocabulary, width, context."""
        return self.vocab_size, self.d_model, self.context


def read_sizes(
    fields: Fields, *, eps: float, num_kv_heads: int | None = None, d_head: int | None = None, swiglu: bool = True
) -> Sizes:
    """The sizes, with the defaults of a family; ``swiglu`` if ``hidden_act`` counts, and must be its silu."""
    if swiglu:
        fields.expect("hidden_act", "silu", "swish", default="silu")
    else:
        fields.skip("hidden_act")
    d_model, num_heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    num_kv_heads = fields.size("num_key_value_heads", default=num_kv_heads or num_heads)
    if num_heads % num_kv_heads:
        fields.refuse("num_attention_heads", f"must be a multiple of num_key_value_heads, {num_kv_heads}")
    if d_head is None:
        d_head = max(1, d_model // num_heads)
    return Sizes(
        vocab_size=fields.size("vocab_size"),
        d_model=d_model,
        num_layers=fields.layers("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        d_head=fields.size("head_dim", "attention_head_dim", default=d_head),
        context=fields.integer("max_position_embeddings", default=2048),
        eps=fields.number("rms_norm_eps", default=eps, above=0, below=1),
    )


def common_settings(config: ModelConfig, architecture: str) -> dict[str, Any]:
    """The settings that all families share, for a configuration of ours."""
    return {
        "architectures": [architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "max_position_embeddings": config.context,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def rope_settings(fields: Fields, default: Mapping[str, Any] | None = None) -> Fields:
    """The settings of the rotation, from ``rope_scaling`` and ``rope_theta`` or, newer, ``rope_parameters``."""
    old, new = fields.part("rope_scaling"), fields.part("rope_parameters")
    if old and new:
        differing = [name for name in old.values.keys() & new.values.keys() if old.values[name] != new.values[name]]
        if differing or old.values.keys() - new.values.keys() - {"type"}:
            fields.refuse("rope_scaling", f"rope_parameters is {dict(new.values)!r:.80}; they must agree")
    part = new or old
    rope = dict(part.values if part else default or {})
    theta, inside = fields.number("rope_theta", default=None, above=1), rope.get("rope_theta")
    if theta is not None and inside is not None and theta != inside:
        fields.refuse("rope_theta", f"rope_parameters says {inside!r}")
    rope["rope_theta"] = theta if inside is None else inside
    if "rope_type" in rope:
        rope.pop("type", None)
    return Fields(rope, fields.file, part.within if part else "rope_scaling", fields.limits)


def read_rotary(
    fields: Fields,
    d_head: int,
    context: int,
    *,
    base: float,
    share: float | None = None,
    pairing: str = "halves",
    default: Mapping[str, Any] | None = None,
    rope: Fields | None = None,
) -> Rotary:
    """The rotation of a family, with its base, and its settings where none are given.

    ``share`` of a head rotates unless the settings say otherwise; None if they cannot. ``rope`` are the settings of the
    rotation where a family has them elsewhere than :func:`rope_settings` looks.
    """
    if rope is None:
        rope = rope_settings(fields, default)
    stated = fields.number("partial_rotary_factor", default=None, above=0)
    stated = rope.number("partial_rotary_factor", default=stated, above=0)
    if share is None and stated not in (None, 1):
        fields.refuse("partial_rotary_factor", "heads of this family rotate whole")
    share = stated or share or 1.0
    width = int(d_head * share)
    if share != 1 and (width % 2 or not 0 < width <= d_head):
        where = next((part for part in (rope, fields) if "partial_rotary_factor" in part.values), fields)
        where.refuse("partial_rotary_factor", f"of {d_head} entries of a head {width} would turn, which are not pairs")
    base = rope.number("rope_theta", default=base, above=1)
    kind = rope.take(str, "rope_type", "type", default="default")
    scalings: dict[str, Callable[[Fields, int], Any]] = {
        "default": lambda rope, context: None,
        "dynamic": _dynamic,
        "linear": lambda rope, context: Linear(rope.number("factor", above=0)),
        "llama3": _llama3,
        "yarn": _yarn,
    }
    if kind not in scalings:
        name = "rope_type" if "rope_type" in rope.values else "type"
        rope.refuse(name, f"of the types of rotation only {', '.join(scalings)} are supported")
    scaling = scalings[kind](rope, context)
    rope.finish()
    return Rotary(base, None if share == 1 else width, pairing, scaling)


def _dynamic(rope: Fields, context: int) -> None:
    """Plain rotation: its base grows only with sequences beyond the context, which are none here."""
    rope.skip("factor", "original_max_position_embeddings")


def _llama3(rope: Fields, context: int) -> Llama3:
    return Llama3(
        rope.number("factor", above=0),
        rope.number("low_freq_factor", above=0),
        rope.number("high_freq_factor", above=0),
        rope.integer("original_max_position_embeddings", default=context),
    )


def mscale(factor: float, strength: float = 1.0) -> float:
    """0.1 strength ln(factor) + 1 (Peng et al. 2023, equation 22)."""
    return 1.0 if factor <= 1 else 0.1 * strength * math.log(factor) + 1


def _yarn(rope: Fields, context: int) -> YaRN:
    original = rope.integer("original_max_position_embeddings", default=context)
    factor = rope.number("factor", default=context / original, above=0)
    ours, all_dim = rope.number("mscale", default=0.0, least=0), rope.number("mscale_all_dim", default=0.0, least=0)
    default = mscale(factor, ours) / mscale(factor, all_dim) if ours and all_dim else mscale(factor)
    return YaRN(
        factor,
        original,
        rope.number("beta_fast", default=32.0, least=0) or 32.0,
        rope.number("beta_slow", default=1.0, least=0) or 1.0,
        rope.flag("truncate", default=True),
        rope.number("attention_factor", default=default, least=0) or default,
    )


def heads(sizes: Sizes, parts: AttentionParts) -> Heads:
    """Attention of these sizes."""
    return Heads(sizes.num_heads, sizes.num_kv_heads, sizes.d_head, parts)


def alternating(
    attention: Heads | Iterable[Any], sparse: Callable[[int], bool], experts: Sparse | None, dense: Dense | None, n: int
) -> tuple[Layer, ...]:
    """n layers, of which ``sparse(i)`` says which have experts; one attention for all, or one for each."""
    each = [attention] * n if isinstance(attention, Heads) else list(attention)
    networks = [experts if sparse(i) else dense for i in range(n)]
    return tuple(Layer(a, f) for a, f in zip(each, networks, strict=True) if f is not None)


def sparse_layers(fields: Fields, n: int, *, first: int) -> list[bool]:
    """Which of n layers have experts: by ``mlp_layer_types``, or those after the first ``first_k_dense_replace``."""
    num_dense = fields.integer("first_k_dense_replace", default=first, least=0)
    types = fields.take(list[str], "mlp_layer_types", default=None)
    if types is None:
        return [i >= num_dense for i in range(n)]
    if len(types) != n or set(types) - {"dense", "sparse"}:
        fields.refuse("mlp_layer_types", f"expected dense or sparse for each of {n} layers")
    return [kind == "sparse" for kind in types]
