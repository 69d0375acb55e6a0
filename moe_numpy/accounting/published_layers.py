"""The sizes of a model that is described layer by layer, as published folders are."""

from typing import Any

from ..models import TransformerConfig
from ..models.transformer_config import Dense, Heads, LatentHeads, Sparse
from .architecture import Architecture
from .layers import FeedForward, GroupedQueryAttention, LatentAttention


def architecture_of_layers(config: TransformerConfig) -> Architecture:
    """The sizes of ``Transformer(config)``. Biases of norms, of logits and of latent attention are not counted.

    Raises:
        ValueError: an Architecture cannot express the layers: they differ in more than what a query sees and which of
            them have experts, those with experts follow no rule, or a router is not one of k experts per token.
    """
    dense = {part for layer in config.layers if isinstance(part := layer.feed_forward, Dense)}
    one = _one("dense layers", dense) if dense else None
    attention, window, num_local = _attention(config)
    sizes: dict[str, Any] = {
        "d_model": config.d_model,
        "vocab_size": config.vocab_size,
        "num_layers": len(config.layers),
        "attention": attention,
        "feed_forward": FeedForward(one.d_ff, bias=one.bias) if one else None,
        "tied_embeddings": config.tied,
        "num_local_layers": num_local,
        "attention_window": window,
    }
    if not config.sparse_layers:
        return Architecture(**sizes)
    return _where_sparse(config, {**sizes, **_experts(config)})


def _one(what: str, values: set[Any]) -> Any:
    """The only value of a set."""
    if len(values) != 1:
        raise ValueError(f"an Architecture has {what} of one kind, got {len(values)}")
    (value,) = values
    return value


def _attention(config: TransformerConfig) -> tuple[GroupedQueryAttention | LatentAttention, int | None, int]:
    """The one attention of all layers, what local layers see, and how many there are."""
    kinds, windows, num_local = set[GroupedQueryAttention | LatentAttention](), set[int](), 0
    for layer in config.layers:
        heads = layer.attention
        if isinstance(heads, LatentHeads):
            of = heads.parts
            kinds.add(LatentAttention(heads.num_heads, of.query_rank, of.kv_rank, of.d_nope, of.d_rope, of.d_value))
            continue
        kinds.add(_grouped(heads))
        seen = [size for size in (heads.parts.window, heads.parts.chunk) if size is not None]
        windows.update(seen)
        num_local += bool(seen)
    window = _one("attention windows", windows) if windows else None
    return _one("attention", kinds), window, num_local


def _grouped(heads: Heads) -> GroupedQueryAttention:
    parts = heads.parts
    weighted = parts.norm is not None and parts.norm.weighted
    return GroupedQueryAttention(
        heads.num_heads,
        heads.num_kv_heads,
        heads.d_head,
        qkv_bias=parts.bias,
        output_bias=parts.output_bias,
        qk_norm={"head": "head", "width": "full"}[parts.norm.over] if weighted and parts.norm else None,
        sinks=parts.sinks,
    )


def _experts(config: TransformerConfig) -> dict[str, Any]:
    """Of the sparse layers."""
    sizes = {(part.d_ff, part.num_experts, _top_k(part), part.recipe.shared_experts) for part in config.sparse_layers}
    d_ff, num_experts, top_k, _ = _one("sparse layers", sizes)
    recipe = config.sparse_layers[0].recipe
    router = recipe.router
    assert router is not None, "_top_k refuses others"
    shared = FeedForward(recipe.shared_width(d_ff), bias=recipe.shared_bias) if recipe.shared_experts else None
    return {
        "expert": FeedForward(d_ff, gated=recipe.experts in ("swiglu", "gpt_oss"), bias=recipe.experts != "swiglu"),
        "num_experts": num_experts,
        "top_k": top_k,
        "shared_expert": shared,
        "shared_expert_gate": recipe.gated_shared,
        "router_bias": router.bias,
        "balancing_bias": router.balancer is not None,
    }


def _top_k(part: Sparse) -> int:
    """k of a sparse layer."""
    router = part.recipe.router
    top_k = 0.0 if router is None else router.per_token(part.num_experts)
    if part.recipe.groups or part.recipe.zero_experts or top_k < 1 or top_k != int(top_k):
        raise ValueError("an Architecture has routers of k experts per token, got another kind")
    return int(top_k)


def _where_sparse(config: TransformerConfig, sizes: dict[str, Any]) -> Architecture:
    """With the rule that says which layers have experts: all after the first few, or every n-th of those."""
    pattern = [isinstance(layer.feed_forward, Sparse) for layer in config.layers]
    for every in range(1, len(pattern) + 1):
        for first in (pattern.index(True), 0):
            if pattern == [i >= first and (len(pattern) - 1 - i) % every == 0 for i in range(len(pattern))]:
                return Architecture(**{**sizes, "first_dense_layers": first, "moe_every": every})
    raise ValueError(
        f"an Architecture has experts in every n-th layer up to the last, got layers {config.routed_layers} of "
        f"{len(pattern)}, from 0"
    )
