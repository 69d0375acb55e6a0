"""This package's own models as an Architecture."""

from ..models import ModelConfig
from .architecture import Architecture
from .attention import GroupedQueryAttention
from .feed_forward import FeedForward


def architecture_of(config: ModelConfig) -> Architecture:
    """The sizes of ``Transformer(config)``: its parameters, total and active, are those counted here.

    Raises:
        ValueError: the recipe has parts that an Architecture has no name for: Soft MoE, two levels of routers,
            zero-computation experts, a learned noise, or a fraction of an expert per token.
    """
    attention = GroupedQueryAttention(config.num_heads, config.num_kv_heads, config.d_model // config.num_heads)
    sizes = config.d_model, config.vocab_size, config.num_layers
    if config.num_experts == 0:
        return Architecture(*sizes, attention, feed_forward=FeedForward(config.d_ff))
    recipe, top_k = config.layer_recipe, config.experts_per_token
    router = recipe.router
    if router is None or recipe.num_groups or recipe.zero_experts or top_k != int(top_k):
        raise ValueError(f"the layers of recipe {config.recipe!r} cannot be counted as an Architecture")
    if router.noise is not None and router.noise.learned:
        raise ValueError(f"the learned noise of recipe {config.recipe!r} cannot be counted as an Architecture")
    expert = {
        "swiglu": FeedForward(config.d_ff),
        "gpt_oss": FeedForward(config.d_ff, bias=True),
        "relu": FeedForward(config.d_ff, gated=False, bias=True),
        "gelu": FeedForward(config.d_ff, gated=False, bias=True),
    }[recipe.experts]
    has_dense = not all(config.is_sparse(i) for i in range(config.num_layers))
    return Architecture(
        *sizes,
        attention,
        feed_forward=FeedForward(config.dense_d_ff or config.active_width) if has_dense else None,
        expert=expert,
        num_experts=config.num_experts,
        top_k=int(top_k),
        shared_expert=FeedForward(recipe.shared_experts * config.d_ff) if recipe.shared_experts else None,
        shared_expert_gate=recipe.gated_shared,
        router_bias=router.bias,
        balancing_bias=router.balancer is not None,
        moe_every=config.moe_every,
    )
