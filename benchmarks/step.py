"""One training step of a Mixtral language model: forward, loss, backward, clipping, AdamW; ours and transformers'."""

from collections.abc import Callable
from typing import Any

import numpy as np

from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.ops import CrossEntropy
from moe_numpy.training import AdamW, clip_factor, global_norm

from .timing import in_turn

CONFIG = ModelConfig(
    vocab_size=256,
    d_model=256,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    context=256,
    d_ff=512,
    num_experts=8,
    recipe="mixtral",
    recipe_settings={"balance": 0.0},
)
BATCH_SIZE = 16
LEARNING_RATE, WEIGHT_DECAY, BETAS, EPS, MAX_NORM = 1e-3, 0.1, (0.9, 0.95), 1e-8, 1.0


def measure(against: str | None, rounds: int, budget_s: float) -> dict[str, Any]:
    """One row; times in milliseconds. The losses of the first three steps are compared before any time is taken."""
    rng = np.random.default_rng(0)
    model = Transformer(CONFIG, rng=rng)
    tokens = rng.integers(0, CONFIG.vocab_size, (BATCH_SIZE, CONFIG.context + 1))
    candidates: dict[str, Callable[[], float]] = {"ours": _ours(model, tokens)}
    error = None
    if against == "torch":
        candidates["peer"] = _peer(model, tokens)  # copies the weights before ours has changed them
        losses = [[run() for run in candidates.values()] for _ in range(3)]
        error = max(abs(a - b) for a, b in losses)
        if not error < 1e-3:
            raise ArithmeticError(f"the losses of the first three steps differ: ours and the peer's {losses}")
    ms = in_turn(candidates, rounds, budget_s)
    row: dict[str, Any] = {
        "shape": f"{CONFIG.num_layers} layers, d={CONFIG.d_model} f={CONFIG.d_ff} E={CONFIG.num_experts} k=2, "
        f"{BATCH_SIZE} x {CONFIG.context} tokens",
        "ours_ms": ms["ours"],
    }
    if against == "torch":
        row |= {"peer_ms": ms["peer"], "ratio": ms["ours"] / ms["peer"], "max_abs_error": error}
    return row


def _ours(model: Transformer, tokens: Any) -> Callable[[], float]:
    optimizer = AdamW(
        model.named_parameters(),
        lr=LEARNING_RATE,
        betas=BETAS,
        eps=EPS,
        weight_decay=WEIGHT_DECAY,
        decay=lambda name, p: True,
    )

    def run() -> float:
        model.zero_grad()
        loss = CrossEntropy.apply(model(tokens[:, :-1]).logits, tokens[:, 1:])
        loss.backward()
        norm = global_norm(p.grad for p in model.parameters())
        optimizer.step(gradient_scale=clip_factor(norm, MAX_NORM))
        return loss.item()

    return run


def _peer(model: Transformer, tokens: Any) -> Callable[[], float]:
    import torch
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=CONFIG.vocab_size,
        hidden_size=CONFIG.d_model,
        intermediate_size=CONFIG.d_ff,
        num_hidden_layers=CONFIG.num_layers,
        num_attention_heads=CONFIG.num_heads,
        num_key_value_heads=CONFIG.num_kv_heads,
        max_position_embeddings=CONFIG.context,
        num_local_experts=CONFIG.num_experts,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        attn_implementation="sdpa",
        experts_implementation="grouped_mm",
    )
    peer = MixtralForCausalLM(config).train()
    state = {_peer_name(name): torch.from_numpy(array.copy()) for name, array in model.state_dict().items()}
    peer.load_state_dict(state)
    optimizer = torch.optim.AdamW(
        peer.parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, fused=True
    )
    inputs, targets = torch.from_numpy(tokens[:, :-1].copy()), torch.from_numpy(tokens[:, 1:].reshape(-1).copy())

    def run() -> float:
        optimizer.zero_grad()
        logits = peer(inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, CONFIG.vocab_size), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), MAX_NORM)
        optimizer.step()
        return float(loss.detach())

    return run


def _peer_name(name: str) -> str:
    """Where transformers keeps the parameter that we call ``name``."""
    if name == "output.weight":
        return "lm_head.weight"
    for ours, theirs in (
        ("embedding.", "embed_tokens."),
        ("feed_forward_norm.", "post_attention_layernorm."),
        ("attention_norm.", "input_layernorm."),
        ("attention.query.", "self_attn.q_proj."),
        ("attention.key.", "self_attn.k_proj."),
        ("attention.value.", "self_attn.v_proj."),
        ("attention.output.", "self_attn.o_proj."),
        ("feed_forward.router.", "mlp.gate."),
        ("feed_forward.experts.gate_up", "mlp.experts.gate_up_proj"),
        ("feed_forward.experts.down", "mlp.experts.down_proj"),
    ):
        name = name.replace(ours, theirs)
    return f"model.{name}"
