"""Two experts become one: how alike they are, their hidden units in the same order, and their weighted mean.

Li et al. 2023, Merge, Then Compress (M-SMoE, arXiv 2310.01334), sections 3.1 and 3.2: align by permutation, then
average with the experts' loads as weights. Permutations by Ainsworth et al. 2022, Git Re-Basin (arXiv 2209.04836),
section 3.2.
"""

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..autodiff import Tensor, no_grad
from ..typing import Array, Float, Int
from .expert_stacks import expert_tensors, hidden_units, real_experts
from .layer import MoE


def output_similarity(layer: MoE, x: Float[Array, "T d"]) -> Float[Array, "E E"]:
    """cos(f_i(x), f_j(x)), the answers to all T tokens as one vector."""
    experts = real_experts(layer)
    with no_grad():
        answers = np.stack([experts.one(e, Tensor(x)).data.reshape(-1) for e in range(layer.num_experts)])
    return _cosines(answers)


def weight_similarity(layer: MoE) -> Float[Array, "E E"]:
    """cos(θ_i, θ_j), all weights of an expert as one vector, hidden units in the order that they have."""
    return _cosines(
        np.concatenate([p.data.reshape(layer.num_experts, -1) for p in real_experts(layer).parameters()], 1)
    )


def _cosines(vectors: Float[Array, "E n"]) -> Float[Array, "E E"]:
    vectors = vectors.astype(np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
    return unit @ unit.T


def best_permutation(experts: Any, a: int, b: int) -> Int[Array, " f"]:
    """π that maximises Σ_j θ_a[j] · θ_b[π_j], where θ[j] are all weights of hidden unit j."""
    alike = sum(units[a].astype(np.float64) @ units[b].T for units in hidden_units(experts))
    order: Int[Array, " f"] = linear_sum_assignment(alike, maximize=True)[1]
    return order


def permute_units(experts: Any, e: int, order: Int[Array, " f"]) -> None:
    """Put the hidden units of an expert into another order, in place; it computes the same as before."""
    for units in hidden_units(experts):
        units[e] = units[e][order]


def merge_into(layer: MoE, a: int, b: int, share: float, *, align: bool = True, row: str = "mean") -> None:
    """Make expert a the mean of a and b, s θ_a + (1 - s) θ_b with s = ``share``, in place; b is still there.

    Args:
        layer: with the experts.
        a: the one to keep.
        b: the other; with ``align`` its hidden units are put into the order of a's first.
        share: the weight of a, usually its load over that of both.
        align: whether hidden units are matched first.
        row: of the router: ``"mean"``, weighted like the experts, or ``"kept"``, that of a.

    Raises:
        ValueError: a and b are the same expert, or ``share`` or ``row`` is out of range.
    """
    if a == b:
        raise ValueError(f"an expert cannot be merged with itself, got {a} twice")
    if not 0 <= share <= 1 or row not in ("mean", "kept"):
        raise ValueError(f"share must be between 0 and 1 and row mean or kept, got {share} and {row!r}")
    experts = real_experts(layer)
    if align:
        permute_units(experts, b, best_permutation(experts, a, b))
    merged = list(experts.parameters()) if row == "kept" else list(expert_tensors(layer))
    for each in merged:
        each.data[a] = share * each.data[a] + (1 - share) * each.data[b]
