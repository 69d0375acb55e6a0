"""How the tensors of a peer's MoE block become ours, one function for each family.

Every function takes the peer's tensors by name, as arrays, and returns ours by name. It only stacks, cuts, transposes
and renames. It is therefore linear, and serves gradients as well as weights: what it makes of the peer's gradients is
what our gradients must be.

Ours: E experts, all of them in one array, each matrix [out, in].

    router.weight      [E, d]       router.bias [E]      router.balancer_state [E], the bias that balances, not trained
    experts.gate_up    [E, 2f, d]   rows 0..f-1 are the gate, rows f..2f-1 the up projection
    experts.down       [E, d, f]
    shared.gate|up.weight [s, d]    shared.down.weight [d, s]    shared_gate.weight [1, d]

The names on the left are those of the modules in transformers 5. Files written for older versions hold one tensor for
each expert and matrix (``experts.3.gate_proj.weight``, in Mixtral ``experts.3.w1.weight``, with w3 for up and w2 for
down); stack those first, gate above up.
"""

from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def mixtral(w: Arrays) -> dict[str, np.ndarray]:
    """Stacked as ours are: nothing but names differ."""
    return {"router.weight": w["gate.weight"], **_stacked_experts(w)}


olmoe = qwen3_moe = mixtral


def qwen2_moe(w: Arrays) -> dict[str, np.ndarray]:
    """Mixtral's, and a shared expert with a gate of its own."""
    return {
        **mixtral(w),
        **_feed_forward(w, "shared_expert"),
        "shared_gate.weight": w["shared_expert_gate.weight"],
    }


def deepseek_v2(w: Arrays) -> dict[str, np.ndarray]:
    """Mixtral's, and shared experts: n of them are one network of n times the width."""
    return {**mixtral(w), **_feed_forward(w, "shared_experts")}


def deepseek_v3(w: Arrays) -> dict[str, np.ndarray]:
    """DeepSeek-V2's, and the bias that moves the choice."""
    return {**deepseek_v2(w), "router.balancer_state": w["gate.e_score_correction_bias"]}


def dbrx(w: Arrays) -> dict[str, np.ndarray]:
    """Experts one below the other in matrices [E·f, d]. ``w2`` is used from the right, h w2: ours is its transpose."""
    num_experts, d = w["router.layer.weight"].shape
    gate, up, down = (w[f"experts.mlp.{name}"].reshape(num_experts, -1, d) for name in ("w1", "v1", "w2"))
    return {
        "router.weight": w["router.layer.weight"],
        "experts.gate_up": np.concatenate([gate, up], axis=1),
        "experts.down": down.swapaxes(1, 2),
    }


def gpt_oss(w: Arrays) -> dict[str, np.ndarray]:
    """Matrices are used from the right, [in, out], with gate and up columns in turn; our rows stay in turn as well."""
    return {
        "router.weight": w["router.weight"],
        "router.bias": w["router.bias"],
        "experts.gate_up": w["experts.gate_up_proj"].swapaxes(1, 2),
        "experts.gate_up_bias": w["experts.gate_up_proj_bias"],
        "experts.down": w["experts.down_proj"].swapaxes(1, 2),
        "experts.down_bias": w["experts.down_proj_bias"],
    }


def llama4(w: Arrays) -> dict[str, np.ndarray]:
    """Matrices are used from the right, [in, out]; all gate columns come before all up columns."""
    return {
        "router.weight": w["router.weight"],
        "experts.gate_up": w["experts.gate_up_proj"].swapaxes(1, 2),
        "experts.down": w["experts.down_proj"].swapaxes(1, 2),
        **_feed_forward(w, "shared_expert"),
    }


def switch(w: Arrays) -> dict[str, np.ndarray]:
    """One small module for each expert, x → wo relu(wi x), without the biases that ours have: those stay zero."""
    experts = range(len(w["router.classifier.weight"]))
    return {
        "router.weight": w["router.classifier.weight"],
        "experts.first": np.stack([w[f"experts.expert_{e}.wi.weight"] for e in experts]),
        "experts.second": np.stack([w[f"experts.expert_{e}.wo.weight"] for e in experts]),
    }


def longcat(w: Arrays) -> dict[str, np.ndarray]:
    """The peer keeps gate and up matrices for zero-computation experts too, and never uses them; ours does not."""
    real = len(w["experts.down_proj"])
    return {
        "router.weight": w["router.classifier.weight"],
        "router.balancer_state": w["router.e_score_correction_bias"],
        "experts.real.gate_up": w["experts.gate_up_proj"][:real],
        "experts.real.down": w["experts.down_proj"],
    }


def _stacked_experts(w: Arrays) -> dict[str, np.ndarray]:
    return {"experts.gate_up": w["experts.gate_up_proj"], "experts.down": w["experts.down_proj"]}


def _feed_forward(w: Arrays, name: str) -> dict[str, np.ndarray]:
    return {f"shared.{part}.weight": w[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down")}
