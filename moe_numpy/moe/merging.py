"""Two experts become one: how alike they are, their hidden units in the same order, and their weighted mean.

Li et al. 2023, Merge, Then Compress (M-SMoE, arXiv 2310.01334): align hidden units by permutation, then average with
the use of the experts as weights. The permutation is that of weight matching in Ainsworth et al. 2022, Git Re-Basin
(arXiv 2209.04836).
"""

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..autodiff import Tensor, no_grad
from ..typing import Array, Float, Int
from .expert_stacks import hidden_units, real_experts
from .layer import MoE


def answers_of(layer: MoE, x: Float[Array, "T d"]) -> Float[Array, "E T d"]:
    """f_e(x_t) of every expert, whoever chooses it."""
    experts = real_experts(layer)
    with no_grad():
        return np.stack([experts.one(e, Tensor(x)).data for e in range(layer.num_experts)])


def output_similarity(answers: Float[Array, "E T d"]) -> Float[Array, "E E"]:
    """cos(f_i(x), f_j(x)), the answers to all T tokens as one vector."""
    return _cosines(answers.reshape(len(answers), -1))


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


def merge_into(layer: MoE, a: int, b: int, share: float, *, align: bool = True) -> None:
    """Make expert a the mean of a and b, s θ_a + (1 - s) θ_b with s = ``share``, in place; b is still there.

    The router's row stays that of a.

    Args:
        layer: with the experts.
        a: the one to keep.
        b: the other, whose hidden units are put into the order of a's first.
        share: the weight of a, usually its gate mass over that of both.
        align: False leaves the hidden units of b in their order, to see what that costs.

    Raises:
        ValueError: a and b are the same expert, or ``share`` is out of range.
    """
    if a == b:
        raise ValueError(f"an expert cannot be merged with itself, got {a} twice")
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    experts = real_experts(layer)
    if align:
        permute_units(experts, b, best_permutation(experts, a, b))
    for each in experts.parameters():
        each.data[a] = share * each.data[a] + (1 - share) * each.data[b]
