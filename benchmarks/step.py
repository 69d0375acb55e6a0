"""One training step of a Mixtral language model: forward, loss, backward, clipping, AdamW; ours and transformers'."""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from moe_numpy.devices import put
from moe_numpy.kernels import to_host
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.ops import CrossEntropy
from moe_numpy.training import AdamW
from moe_numpy.training.optimizers import clip_factor_of, sum_of_squares

from .place import Place
from .timing import in_turn

CONFIGS = {
    "cpu": ModelConfig(
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
    ),
    "cuda": ModelConfig(
        vocab_size=256,
        d_model=1024,
        num_layers=8,
        num_heads=16,
        num_kv_heads=4,
        context=1024,
        d_ff=2048,
        num_experts=8,
        recipe="mixtral",
        recipe_settings={"balance": 0.0},
    ),
}
BATCH_SIZE = 16
TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}  # of the losses of the first three steps
LEARNING_RATE, WEIGHT_DECAY, BETAS, EPS, MAX_NORM = 1e-3, 0.1, (0.9, 0.95), 1e-8, 1.0


def measure(
    against: str | None, rounds: int, budget_s: float, place: Place
) -> Generator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the model's sizes and the function that measures the only row; times in milliseconds."""
    config = CONFIGS[place.device]
    shape = (
        f"{config.num_layers} layers, d={config.d_model} f={config.d_ff} E={config.num_experts} k=2, "
        f"{BATCH_SIZE} x {config.context} tokens"
    )
    yield shape, partial(_row, shape, config, against, rounds, budget_s, place)


def _row(
    shape: str, config: ModelConfig, against: str | None, rounds: int, budget_s: float, place: Place
) -> dict[str, Any]:
    """The losses of the first three steps are compared before timing."""
    model = Transformer(config, rng=place.generator(0), dtype=place.float_type).to(place.device)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (BATCH_SIZE, config.context + 1))
    inputs, targets = (put(ids.copy(), place.device) for ids in (tokens[:, :-1], tokens[:, 1:]))
    candidates: dict[str, Callable[[], float]] = {"ours": _ours(model, inputs, targets, place)}
    error = None
    if against == "torch":
        candidates["peer"] = _peer(model, inputs, targets, place)  # copies the weights before ours changes them
        losses = [[run() for run in candidates.values()] for _ in range(3)]
        error = max(abs(a - b) for a, b in losses)
        if not error < TOLERANCE[place.dtype]:
            raise ArithmeticError(f"the losses of the first three steps differ: ours and the peer's {losses}")
    ms = in_turn(candidates, rounds, budget_s, place.synchronize)
    row: dict[str, Any] = {
        "shape": shape,
        "device": place.device,
        "dtype": place.dtype,
        "ours_ms": ms["ours"],
    }
    if against == "torch":
        row |= {"peer_ms": ms["peer"], "ratio": ms["ours"] / ms["peer"], "max_abs_error": error}
    return row


def _ours(model: Any, inputs: Any, targets: Any, place: Place) -> Callable[[], float]:
    """As the Trainer's step: on a GPU one graph is replayed."""
    optimizer = AdamW(
        model.named_parameters(),
        lr=LEARNING_RATE,
        betas=BETAS,
        eps=EPS,
        weight_decay=WEIGHT_DECAY,
        decay=lambda name, p: True,
    )

    def step(rates: Any, inputs: Any, targets: Any) -> Any:
        model.zero_grad()
        loss = CrossEntropy.apply(model(inputs).logits, targets)
        loss.backward()
        squares = array_namespace(rates).asarray(sum_of_squares([p.grad for p in model.parameters()]))
        optimizer.update(array_namespace(rates).concat([clip_factor_of(squares, MAX_NORM), rates]))
        return loss.data

    replayed = place.recorded(step)

    def run() -> float:
        rates = put(np.array(optimizer.rates(LEARNING_RATE)), place.device)
        loss = float(to_host(replayed(rates, inputs, targets)))
        optimizer.steps += 1
        return loss

    return run


def _peer(model: Any, inputs: Any, targets: Any, place: Place) -> Callable[[], float]:
    """In bfloat16 the peer has no float32 masters and moments: it does less work than ours."""
    import torch
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM

    ours = model.config
    config = MixtralConfig(
        vocab_size=ours.vocab_size,
        hidden_size=ours.d_model,
        intermediate_size=ours.d_ff,
        num_hidden_layers=ours.num_layers,
        num_attention_heads=ours.num_heads,
        num_key_value_heads=ours.num_kv_heads,
        max_position_embeddings=ours.context,
        num_local_experts=ours.num_experts,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        attn_implementation="sdpa",
        experts_implementation="grouped_mm",
    )
    with torch.device(place.device):
        peer = MixtralForCausalLM(config).to(place.torch_type()).train()
    peer.load_state_dict({_peer_name(name): place.tensor(array) for name, array in model.state_dict().items()})
    optimizer = torch.optim.AdamW(
        peer.parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, fused=True
    )
    inputs, targets = place.tensor(inputs), place.tensor(targets).reshape(-1)

    def run() -> float:
        optimizer.zero_grad()
        logits = peer(inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, ours.vocab_size).float(), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), MAX_NORM)
        optimizer.step()
        return float(loss.detach())

    return run


def _peer_name(name: str) -> str:
    """The name in transformers of our parameter ``name``."""
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
